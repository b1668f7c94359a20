"""Checkpoints: one file, a folder of them, and the writer in the background."""
