"""Checks of a dataset and a config before training, and recommendations; nothing is modified."""
