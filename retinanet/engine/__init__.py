"""Training: the loop, the training step and state, evaluation, and the records of a run."""
