"""`postprocess` and `inference`: which boxes are kept, and how a trained network runs."""

from typing import Annotated, Literal

from pydantic import Field

from retinanet.config.base import Count, Share, StrictModel


class PostprocessConfig(StrictModel):
    min_score: Annotated[float, Field(ge=0, lt=1)] = 0.05
    top_k: Count = 1000
    nms_iou: Share = 0.5
    max_detections: Count = 100


class InferenceConfig(StrictModel):
    """How a trained network runs in prediction."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    compile: bool = False  # each padded shape costs a minute or so, paid back over many images
