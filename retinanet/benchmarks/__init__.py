"""Speed and memory benchmarks against other implementations, run by `retinanet benchmark`."""
