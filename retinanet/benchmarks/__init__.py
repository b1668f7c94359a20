"""Benchmarks of speed and memory against other implementations, run by `retinanet benchmark`."""
