"""Checks of annotations that can be read but may be wrong."""
