"""The process that runs: devices, ranks, signals, logs."""
