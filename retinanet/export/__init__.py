"""Export of a trained detector as one program for other runtimes, verified when it is written."""
