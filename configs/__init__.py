"""Makes the YAML files in this folder available as `retinanet.configs`, even in an editable install."""
