"""Pascal VOC annotations: one XML file per image."""
