"""labelme annotations: one JSON file per image."""
