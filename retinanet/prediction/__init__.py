"""Prediction on folders of images: find inputs, keep results across interruptions, and write output files."""
