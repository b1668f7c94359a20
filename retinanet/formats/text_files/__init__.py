"""Text files in the encodings and sizes that annotations have."""
