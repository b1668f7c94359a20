"""Find the image files that annotations refer to."""
