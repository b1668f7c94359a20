"""`loss`: class loss, box loss and their weights."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from retinanet.config.base import Count, NonNegative, Positive, Share, StrictModel


def _form(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "text" if isinstance(value, str) else "number"


# Weight of an anchor's own class; all other classes have 1 minus this weight. A list gives one weight per class; null
# sets every weight to 1; "inverse_frequency" computes the weights from the training objects when a run starts.
ClassAlpha = Annotated[
    Annotated[Share | None, Tag("number")]
    | Annotated[tuple[Share, ...], Field(min_length=1), Tag("list")]
    | Annotated[Literal["inverse_frequency"], Tag("text")],
    Discriminator(_form),
]


class ClassLossFacts(StrictModel):
    """Properties of a class loss that other keys depend on."""

    has_background_logit: ClassVar[bool] = False  # whether the head outputs an extra background logit


class FocalConfig(ClassLossFacts):
    """Focal loss on sigmoid probabilities (Lin et al. 2017, eq. 5)."""

    type: Literal["focal"] = "focal"
    alpha: ClassAlpha = 0.25
    """Weight of the positives; negatives have the weight 1 - alpha. A list gives one weight per class. null: all
    weights are 1; inverse_frequency: weights computed from the training data."""
    gamma: NonNegative = 2.0
    """Focusing exponent; 0 gives cross entropy."""


class CrossEntropyConfig(ClassLossFacts):
    """Cross entropy on sigmoid probabilities: the focal loss with gamma 0."""

    type: Literal["cross_entropy"] = "cross_entropy"
    alpha: ClassAlpha = None
    """Same as for `focal`."""


class FocalStarConfig(ClassLossFacts):
    """FL*, the alternative focal loss in the appendix of Lin et al. 2017."""

    type: Literal["focal_star"] = "focal_star"
    gamma: Positive = 2.0
    """Steepness; gamma 1 with beta 0 gives cross entropy."""
    beta: float = 1.0
    """Shift: with larger values, the loss of an example vanishes at a lower probability of its true class."""


class HingeConfig(ClassLossFacts):
    """Hinge loss on the probability of the true class. The paper found it unstable."""

    type: Literal["hinge"] = "hinge"


class OHEMConfig(ClassLossFacts):
    """Online hard example mining: cross entropy on the hardest anchors of each image."""

    type: Literal["ohem"] = "ohem"
    keep: Count = 512
    """Number of anchors kept per image."""
    nms_iou: Share | None = 0.7
    """If the IoU of two anchors is above this value, only the harder one is considered; null: no suppression."""
    one_to_three: bool = False
    """Whether to keep at most three negatives per positive."""


class QualityFocalConfig(ClassLossFacts):
    """Quality focal loss (Li et al. 2020): the target for a positive is the IoU of its predicted box."""

    type: Literal["quality_focal"] = "quality_focal"
    beta: NonNegative = 2.0
    """Focusing exponent."""


class VarifocalConfig(ClassLossFacts):
    """Varifocal loss (Zhang et al. 2021): the IoU of a positive's predicted box is both its target and its weight."""

    type: Literal["varifocal"] = "varifocal"
    alpha: NonNegative = 0.75
    """Weight of the negatives."""
    gamma: NonNegative = 2.0
    """Focusing exponent of the negatives."""


class SoftmaxFocalConfig(ClassLossFacts):
    """Focal loss on softmax probabilities, including background; requires `model.class_activation: softmax`."""

    has_background_logit: ClassVar[bool] = True
    type: Literal["softmax_focal"] = "softmax_focal"
    alpha: ClassAlpha = None
    """Weight of each class; the weight of background is 1 minus their mean. null: all weights are 1;
    inverse_frequency: weights computed from the training data."""
    gamma: NonNegative = 2.0
    """Focusing exponent; 0 gives cross entropy."""


WeighedByClass = FocalConfig | CrossEntropyConfig | SoftmaxFocalConfig
ClassLossConfig = WeighedByClass | FocalStarConfig | HingeConfig | OHEMConfig | QualityFocalConfig | VarifocalConfig


class SmoothL1Config(StrictModel):
    """Smooth L1 loss on the encoded box offsets."""

    type: Literal["smooth_l1"] = "smooth_l1"
    beta: NonNegative = 0.1
    """The loss is quadratic for differences below this value and linear above; 0 gives L1."""


class GIoUConfig(StrictModel):
    """Generalised IoU loss (Rezatofighi et al. 2019)."""

    type: Literal["giou"] = "giou"


class DIoUConfig(StrictModel):
    """Distance IoU loss (Zheng et al. 2020)."""

    type: Literal["diou"] = "diou"


class CIoUConfig(StrictModel):
    """Complete IoU loss (Zheng et al. 2020)."""

    type: Literal["ciou"] = "ciou"


BoxLossConfig = SmoothL1Config | GIoUConfig | DIoUConfig | CIoUConfig


class LossConfig(StrictModel):
    """Class loss, box loss and their weights."""

    classification: Annotated[ClassLossConfig, Field(discriminator="type")] = FocalConfig()
    """Class loss."""
    box: Annotated[BoxLossConfig, Field(discriminator="type")] = SmoothL1Config()
    """Box loss."""
    class_weight: NonNegative = 1.0
    """Weight of the class loss in the total."""
    box_weight: NonNegative = 1.0
    """Weight of the box loss in the total."""
