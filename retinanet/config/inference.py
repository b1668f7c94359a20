"""`postprocess` and `inference`: which boxes are kept, and how a trained model runs."""

from typing import Annotated

from pydantic import Field

from retinanet.config.base import Count, Precision, Share, StrictModel


class PostprocessConfig(StrictModel):
    """Postprocessing of head outputs."""

    min_score: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Detections must score higher than this."""
    top_k: Count = 1000
    """Number of highest-scoring (anchor, class) pairs of each pyramid level that enter NMS."""
    nms_iou: Share = 0.5
    """NMS removes a box whose IoU with a higher-scoring box of its class is above this."""
    max_detections: Count = 100
    """Maximum number of detections in an image, over all levels and classes."""


class InferenceConfig(StrictModel):
    """Settings of inference."""

    precision: Precision = "auto"
    """Precision of the network; auto: bf16 where the hardware supports it, else fp32."""
    compile: bool = False
    """Whether to use torch.compile. It takes a minute or two per padded shape and pays off over many images."""
