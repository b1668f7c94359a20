"""Video files: recognise them, and read their frames."""
