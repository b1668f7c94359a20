"""Makes the YAML files here readable as `retinanet.configs` from an editable install, too."""
