"""`postprocess` and `inference`: which boxes to keep, and how to run a trained model."""

from typing import Annotated

from pydantic import Field

from retinanet.config.base import Count, Precision, Share, StrictModel


class PostprocessConfig(StrictModel):
    """Conversion of head outputs to detections."""

    min_score: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Only detections with a score above this value are kept."""
    top_k: Count = 1000
    """Number of highest-scoring (anchor, class) pairs per pyramid level that are passed to NMS."""
    nms_iou: Share = 0.5
    """NMS removes a box if its IoU with a higher-scoring box of the same class is above this value."""
    nms_across_classes: bool = False
    """Whether NMS compares the boxes of all classes, so that an object is detected only as its best class."""
    max_detections: Count = 100
    """Maximum number of detections per image, over all levels and classes."""


class InferenceConfig(StrictModel):
    """Precision and compilation of a trained model."""

    precision: Precision = "auto"
    """Precision of the network, including evaluation during training; auto: bf16 if the hardware supports it, otherwise
    fp32."""
    compile: bool = False
    """Whether to use torch.compile, except in training runs. Compiling takes a minute or two per padded shape, pays off
    only for many images, and may change the last digits of scores."""
