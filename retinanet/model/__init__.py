"""Everything with weights: backbone, pyramid, heads."""
