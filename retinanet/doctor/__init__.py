"""Checks of a dataset and a config before training: data faults, images, anchors, and recommendations."""
