"""Evaluation of detections: COCO metrics, and statistics over several runs."""
