"""Detectors of other frameworks: read their weights into ours, and write ours as theirs."""
