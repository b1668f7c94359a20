"""Draw detections on images, and charts; nothing is computed here."""
