"""Checkpoints: the file format, the checkpoint folder, and the background writer."""
