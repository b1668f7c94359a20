"""`loss`: class loss, box loss and their weights."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from retinanet.config.base import Count, Positive, Share, StrictModel


def _form(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "text" if isinstance(value, str) else "number"


# The weight of an anchor's own class, where every other class weighs 1 minus it. A list has one a class; null: all
# weigh 1. "inverse_frequency" is worked out from the objects of the training data when a run starts.
ClassAlpha = Annotated[
    Annotated[Share | None, Tag("number")]
    | Annotated[tuple[Share, ...], Field(min_length=1), Tag("list")]
    | Annotated[Literal["inverse_frequency"], Tag("text")],
    Discriminator(_form),
]


class FocalConfig(StrictModel):
    type: Literal["focal"] = "focal"
    alpha: ClassAlpha = 0.25
    gamma: Annotated[float, Field(ge=0)] = 2.0


class CrossEntropyConfig(StrictModel):
    """The focal loss with gamma 0."""

    type: Literal["cross_entropy"] = "cross_entropy"
    alpha: ClassAlpha = None


class FocalStarConfig(StrictModel):
    """FL* of the paper's appendix."""

    type: Literal["focal_star"] = "focal_star"
    gamma: Positive = 2.0
    beta: float = 1.0


class HingeConfig(StrictModel):
    """On the probability of what is true. The paper found it unstable."""

    type: Literal["hinge"] = "hinge"


class OHEMConfig(StrictModel):
    """Cross entropy on the hardest anchors of each image."""

    type: Literal["ohem"] = "ohem"
    keep: Count = 512  # anchors an image
    nms_iou: Share | None = 0.7  # of two anchors that overlap by more, the harder one is looked at; null: all are
    one_to_three: bool = False  # at most three negatives for a positive


class QualityFocalConfig(StrictModel):
    """An object's target is the IoU of its predicted box, of a focal loss."""

    type: Literal["quality_focal"] = "quality_focal"
    beta: Annotated[float, Field(ge=0)] = 2.0


class VarifocalConfig(StrictModel):
    """The same, and an object weighs as much as its target; what is none weighs `alpha`."""

    type: Literal["varifocal"] = "varifocal"
    alpha: Annotated[float, Field(ge=0)] = 0.75
    gamma: Annotated[float, Field(ge=0)] = 2.0


class SoftmaxFocalConfig(StrictModel):
    """Of a head with a softmax. Background is a class that weighs 1 minus the mean of the others; null: all weigh 1."""

    type: Literal["softmax_focal"] = "softmax_focal"
    alpha: ClassAlpha = None
    gamma: Annotated[float, Field(ge=0)] = 2.0


WeighedByClass = FocalConfig | CrossEntropyConfig | SoftmaxFocalConfig
ClassLossConfig = WeighedByClass | FocalStarConfig | HingeConfig | OHEMConfig | QualityFocalConfig | VarifocalConfig


class SmoothL1Config(StrictModel):
    type: Literal["smooth_l1"] = "smooth_l1"
    beta: Annotated[float, Field(ge=0)] = 0.1  # 0 is L1


class GIoUConfig(StrictModel):
    type: Literal["giou"] = "giou"


class DIoUConfig(StrictModel):
    type: Literal["diou"] = "diou"


class CIoUConfig(StrictModel):
    type: Literal["ciou"] = "ciou"


BoxLossConfig = SmoothL1Config | GIoUConfig | DIoUConfig | CIoUConfig


class LossConfig(StrictModel):
    classification: Annotated[ClassLossConfig, Field(discriminator="type")] = FocalConfig()
    box: Annotated[BoxLossConfig, Field(discriminator="type")] = SmoothL1Config()
    class_weight: Annotated[float, Field(ge=0)] = 1.0
    box_weight: Annotated[float, Field(ge=0)] = 1.0
