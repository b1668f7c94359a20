"""`postprocess` and `inference`: which boxes to keep, and how to run a trained model."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from retinanet.config.base import Count, Positive, Precision, Share, StrictModel

SoftNms = Literal["linear", "gaussian"]
MergeMethod = Literal["nms", "weighted_boxes"]


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
    soft_nms: SoftNms | None = None
    """Soft NMS (Bodla et al. 2017): instead of removing a box that overlaps a better one, lower its score, and remove
    it only if its score falls to `min_score`. linear: multiply the score by 1 - IoU if the IoU is above `nms_iou`;
    gaussian: multiply it by exp(-IoU^2 / `soft_nms_sigma`), whatever `nms_iou` is. null: remove the box."""
    soft_nms_sigma: Positive = 0.5
    """Width of the Gaussian of soft NMS; the larger, the less scores are lowered."""
    max_detections: Count = 100
    """Maximum number of detections per image, over all levels and classes; with `inference.tile.size`, in each tile and
    each copy of it."""


class TileConfig(StrictModel):
    """Overlapping tiles of large images. Each tile is resized like an image of its size."""

    size: Annotated[int, Field(ge=16)] | None = None
    """Side of a tile in pixels of the original image; null: no tiles. Images that fit in one tile are not divided."""
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    """Smallest overlap of neighbouring tiles, as a share of `size`. Choose it so that most objects are smaller."""
    whole_image: bool = True
    """Whether objects are also detected in the whole image, which finds those that are larger than a tile."""


class AugmentConfig(StrictModel):
    """Test-time augmentation: objects are also detected in changed copies of each image or tile."""

    flip: bool = False
    """Whether horizontally flipped copies are used, at each scale."""
    scales: tuple[Annotated[float, Field(ge=0.1, le=10)], ...] = ()
    """Additional sizes of the resized image, as factors of the size that `data.resize` gives, such as [0.8, 1.25]."""

    @field_validator("scales")
    @classmethod
    def distinct(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if 1 in scales or len(set(scales)) < len(scales):
            raise ValueError(f"found {list(scales)}, expected different numbers other than 1, which is always used")
        return scales


class InferenceConfig(StrictModel):
    """How a trained model is run on images, in prediction and evaluation."""

    precision: Precision = "auto"
    """Precision of the network, including evaluation during training; auto: bf16 if the hardware supports it, otherwise
    fp32."""
    compile: bool = False
    """Whether to use torch.compile, except in training runs. Compiling takes a minute or two per padded shape, pays off
    only for many images, and may change the last digits of scores."""
    tile: TileConfig = TileConfig()
    """Overlapping tiles of large images."""
    augment: AugmentConfig = AugmentConfig()
    """Test-time augmentation."""
    merge: MergeMethod = "nms"
    """How detections of an object in several tiles or copies are merged: nms keeps the one with the highest score,
    weighted_boxes averages them (Solovyev et al. 2021). Both use `postprocess.nms_iou` and `.nms_across_classes`."""
