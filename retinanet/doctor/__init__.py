"""Check a dataset and a config before training: annotations, images, anchors and recommended settings."""
