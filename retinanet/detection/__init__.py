"""Weight-free rules of the detector: box geometry, anchors, assignment and postprocessing."""
