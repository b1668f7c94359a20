"""Process-level services, independent of the model: devices, distributed groups, signals, logs, failures."""
