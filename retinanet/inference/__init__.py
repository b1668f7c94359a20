"""Inference: run a trained detector on images."""
