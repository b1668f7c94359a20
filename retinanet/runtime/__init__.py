"""The process, independent of what it computes: devices, distributed groups, signals, logs, failures."""
