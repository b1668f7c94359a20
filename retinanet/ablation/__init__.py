"""Reproduce the tables and figures of the paper: train the rows, then report their results."""
