"""Transforms of an image and its boxes: resizing and augmentation. `sample.py` states the rules for all of them."""
