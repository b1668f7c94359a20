"""YOLO annotations: one text file of boxes per image."""
