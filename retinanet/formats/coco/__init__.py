"""COCO and LVIS annotations."""
