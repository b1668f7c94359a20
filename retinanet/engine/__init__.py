"""Training: the loop, its step and state, evaluation, and what a run records."""
