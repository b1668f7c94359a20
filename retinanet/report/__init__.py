"""Pages about detections and runs; each is one self-contained HTML file."""
