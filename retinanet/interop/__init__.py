"""Import weights of other frameworks' detectors, and export ours to those frameworks."""
