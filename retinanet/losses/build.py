"""Build the detection loss from the `loss` section of a config."""

from retinanet.config import (
    BoxLossConfig,
    CIoUConfig,
    ClassLossConfig,
    CrossEntropyConfig,
    DIoUConfig,
    FocalConfig,
    FocalStarConfig,
    GIoUConfig,
    HingeConfig,
    LossConfig,
    OHEMConfig,
    QualityFocalConfig,
    SmoothL1Config,
    SoftmaxFocalConfig,
    VarifocalConfig,
)
from retinanet.losses.box_losses import BoxLoss, CIoULoss, DIoULoss, GIoULoss, SmoothL1Loss
from retinanet.losses.class_loss import ClassLoss
from retinanet.losses.configured_weights import checked_alpha
from retinanet.losses.custom import is_class_loss
from retinanet.losses.detection import Criterion, DetectionLoss
from retinanet.losses.hard_examples import HardExampleMining
from retinanet.losses.margin import FocalStarMargin, HingeMargin
from retinanet.losses.quality import QualityFocalLoss, VarifocalLoss
from retinanet.losses.sigmoid import SigmoidFocalLoss, SigmoidMarginLoss
from retinanet.losses.softmax_focal import SoftmaxFocalLoss


def build_loss(cfg: LossConfig, *, num_classes: int | None = None, compile: bool = False) -> DetectionLoss:
    """Build the detection loss: class loss, box loss and, if configured, hard example mining.

    Args:
        num_classes: if the class weights are a list, check that it has this length; None skips the check.
        compile: compile the kernels of the sigmoid class losses.

    Raises:
        InputError: the number of class weights is wrong, or they have not been computed yet.
    """
    return DetectionLoss(
        build_class_loss(cfg.classification, num_classes=num_classes, compile=compile),
        build_box_loss(cfg.box),
        class_weight=cfg.class_weight,
        box_weight=cfg.box_weight,
        hard_examples=build_hard_examples(cfg.classification),
    )


def build_criterion(
    cfg: LossConfig,
    custom: ClassLoss | Criterion | None = None,
    *,
    num_classes: int | None = None,
    compile: bool = False,
) -> Criterion:
    """Build the detection loss, with a user's class loss or replaced by a user's loss; see `build_loss`."""
    if custom is None:
        return build_loss(cfg, num_classes=num_classes, compile=compile)
    if is_class_loss(custom):
        box_loss = build_box_loss(cfg.box)
        return DetectionLoss(custom, box_loss, class_weight=cfg.class_weight, box_weight=cfg.box_weight)
    return custom


def build_class_loss(cfg: ClassLossConfig, *, num_classes: int | None = None, compile: bool = False) -> ClassLoss:
    """Build the class loss; `num_classes`, `compile` and errors are as in `build_loss`."""
    match cfg:
        case FocalConfig():
            return SigmoidFocalLoss(alpha=checked_alpha(cfg, num_classes), gamma=cfg.gamma, compile=compile)
        case CrossEntropyConfig():
            return SigmoidFocalLoss(alpha=checked_alpha(cfg, num_classes), gamma=0.0, compile=compile)
        case OHEMConfig():
            return SigmoidFocalLoss(alpha=None, gamma=0.0, compile=compile)
        case SoftmaxFocalConfig():
            return SoftmaxFocalLoss(alpha=checked_alpha(cfg, num_classes), gamma=cfg.gamma)
        case FocalStarConfig():
            return SigmoidMarginLoss(FocalStarMargin(cfg.gamma, cfg.beta), compile=compile)
        case HingeConfig():
            return SigmoidMarginLoss(HingeMargin(), compile=compile)
        case QualityFocalConfig():
            return QualityFocalLoss(beta=cfg.beta, compile=compile)
        case VarifocalConfig():
            return VarifocalLoss(alpha=cfg.alpha, gamma=cfg.gamma, compile=compile)


def build_hard_examples(cfg: ClassLossConfig) -> HardExampleMining | None:
    """Build hard example mining, or return None if the loss is over all anchors."""
    match cfg:
        case OHEMConfig():
            return HardExampleMining(keep=cfg.keep, nms_iou=cfg.nms_iou, one_to_three=cfg.one_to_three)
        case _:
            return None


def build_box_loss(cfg: BoxLossConfig) -> BoxLoss:
    """Build the box loss."""
    match cfg:
        case SmoothL1Config():
            return SmoothL1Loss(beta=cfg.beta)
        case GIoUConfig():
            return GIoULoss()
        case DIoUConfig():
            return DIoULoss()
        case CIoUConfig():
            return CIoULoss()
