"""Image and annotation formats: the only package that depends on file formats."""
