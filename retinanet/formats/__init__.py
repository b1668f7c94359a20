"""Annotation and image formats: the only package that knows a file format."""
