"""A trained detector on pictures."""
