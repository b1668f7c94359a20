"""Prediction on folders of images: inputs, results that survive interruptions, and output files."""
