"""Draw detections on images, and draw charts of given values."""
