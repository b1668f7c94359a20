"""Images and plots: drawing only, no computing."""
