"""Checkpoints: the file format, a folder of files, and the background writer."""
