"""Trackers: log a run to Weights & Biases, MLflow or Trackio."""
