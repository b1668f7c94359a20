"""`evaluation`: how detections are scored."""

from retinanet.config.base import Count, StrictModel


class EvaluationConfig(StrictModel):
    """Scoring of detections."""

    max_detections: Count | None = None
    """Number of detections that count, the best by score; null: 100 per image and class, as COCO defines AP, or 300 per
    image for LVIS annotations. For images with more objects, raise `postprocess.max_detections` as well."""
