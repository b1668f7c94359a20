"""Pages about detections and runs, each one self-contained HTML file."""
