"""Command-line tools, installed as `retinanet.tools`: each parses its arguments, builds the parts and calls them."""
