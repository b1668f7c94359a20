"""Benchmarks of speed and memory: one module per suite, run by `retinanet benchmark`."""
