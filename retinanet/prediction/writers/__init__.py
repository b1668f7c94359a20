"""Writers of the output files of a prediction, one format per file."""
