"""Image and annotation formats: the only package that knows a file format."""
