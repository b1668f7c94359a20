"""Benchmarks of speed and memory next to other implementations, run by `retinanet benchmark`."""
