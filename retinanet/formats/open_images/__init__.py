"""Open Images annotations: one CSV file of boxes per split."""
