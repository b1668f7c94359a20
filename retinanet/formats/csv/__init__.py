"""CSV annotations: one box per row."""
