"""The process, independent of what it computes: devices, ranks, signals, logs, failures."""
