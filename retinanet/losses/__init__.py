"""Training losses: class losses, box losses, and the criterion that combines them."""
