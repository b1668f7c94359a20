"""Running the detector: training, evaluation, and what they write."""
