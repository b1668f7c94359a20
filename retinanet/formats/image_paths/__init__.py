"""Find the image files of annotations."""
