"""Image files: recognise, check and decode them."""
