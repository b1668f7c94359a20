"""The embedded data set, drawn on the spot."""
