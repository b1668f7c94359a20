"""The embedded dataset, drawn by code."""
