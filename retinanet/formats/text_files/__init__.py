"""Read text files of the encodings and sizes found in annotations."""
