"""Measurements of speed and memory: one file a suite, run by `retinanet benchmark`."""
