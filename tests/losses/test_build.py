"""Losses built from a config."""

import pytest
import torch

from retinanet.config import (
    CIoUConfig,
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
from retinanet.errors import InputError
from retinanet.losses.box_losses import CIoULoss, DIoULoss, GIoULoss, SmoothL1Loss
from retinanet.losses.build import build_class_loss, build_loss
from retinanet.losses.detection import DetectionLoss
from retinanet.losses.hard_examples import HardExampleMining
from retinanet.losses.margin import FocalMargin, FocalStarMargin, HingeMargin
from retinanet.losses.quality import QualityFocalLoss, VarifocalLoss
from retinanet.losses.sigmoid import SigmoidFocalLoss, SigmoidMarginLoss
from retinanet.losses.softmax_focal import SoftmaxFocalLoss
from tests.helpers.head_outputs import NUM_CLASSES, random_assignment, random_outputs, targets_of
from tests.helpers.losses import CLASS_LOSSES


def test_config_sets_the_parameters_of_the_loss():
    outputs, targets = random_outputs(1), targets_of(5)
    assignment, count = random_assignment(targets), torch.tensor(2.0)
    cfg = LossConfig(
        classification=FocalConfig(alpha=0.6, gamma=0.5), box=SmoothL1Config(beta=0.7), class_weight=2.0, box_weight=3.0
    )
    by_hand = DetectionLoss(
        SigmoidFocalLoss(alpha=0.6, gamma=0.5), SmoothL1Loss(beta=0.7), class_weight=2.0, box_weight=3.0
    )(outputs, assignment, targets, count)
    assert tuple(build_loss(cfg)(outputs, assignment, targets, count)) == tuple(by_hand)
    default = build_loss(LossConfig())(outputs, assignment, targets, count)
    assert default.classification != by_hand.classification and default.box_regression != by_hand.box_regression


@pytest.mark.parametrize(
    ("cfg", "loss"),
    [
        (CrossEntropyConfig(alpha=0.75), SigmoidFocalLoss(alpha=0.75, gamma=0.0)),
        (CrossEntropyConfig(), SigmoidMarginLoss(FocalMargin(0.0))),
        (FocalConfig(alpha=(0.1, 0.3, 0.5, 0.7, 0.9)), SigmoidFocalLoss(alpha=[0.1, 0.3, 0.5, 0.7, 0.9])),
        (FocalStarConfig(gamma=4.0, beta=0.5), SigmoidMarginLoss(FocalStarMargin(4.0, 0.5))),
        (HingeConfig(), SigmoidMarginLoss(HingeMargin())),
        (QualityFocalConfig(beta=1.5), QualityFocalLoss(beta=1.5)),
        (VarifocalConfig(alpha=0.6, gamma=1.5), VarifocalLoss(alpha=0.6, gamma=1.5)),
    ],
)
def test_config_selects_the_class_loss(cfg, loss):
    outputs, targets = random_outputs(2), targets_of(5, 2)
    arguments = outputs, random_assignment(targets), targets, torch.tensor(2.0)
    built = build_loss(LossConfig(classification=cfg), num_classes=NUM_CLASSES)(*arguments)
    assert tuple(built) == tuple(DetectionLoss(loss, SmoothL1Loss())(*arguments))
    assert built.classification != build_loss(LossConfig())(*arguments).classification


def test_config_sets_up_hard_example_mining():
    outputs, targets = random_outputs(2), targets_of(5, 2)
    arguments = outputs, random_assignment(targets), targets, torch.tensor(2.0)
    cfg = OHEMConfig(keep=7, nms_iou=0.3, one_to_three=True)
    mining = HardExampleMining(keep=7, nms_iou=0.3, one_to_three=True)
    by_hand = DetectionLoss(SigmoidFocalLoss(alpha=None, gamma=0.0), SmoothL1Loss(), hard_examples=mining)(*arguments)
    assert tuple(build_loss(LossConfig(classification=cfg))(*arguments)) == tuple(by_hand)
    every = build_loss(LossConfig(classification=CrossEntropyConfig()))(*arguments)
    assert 0 < by_hand.classification < every.classification and by_hand.box_regression == every.box_regression


@pytest.mark.parametrize(
    ("cfg", "loss"), [(GIoUConfig(), GIoULoss()), (DIoUConfig(), DIoULoss()), (CIoUConfig(), CIoULoss())]
)
def test_config_selects_the_box_loss(cfg, loss):
    outputs, targets = random_outputs(2), targets_of(5, 2)
    arguments = outputs, random_assignment(targets), targets, torch.tensor(2.0)
    assert tuple(build_loss(LossConfig(box=cfg))(*arguments)) == tuple(
        DetectionLoss(SigmoidFocalLoss(), loss)(*arguments)
    )


def test_wrong_number_of_alphas_is_rejected():
    cfg = LossConfig(classification=FocalConfig(alpha=(0.1, 0.2)))
    with pytest.raises(InputError, match=r"loss\.classification\.alpha has 2 values for 5 classes"):
        build_loss(cfg, num_classes=NUM_CLASSES)


@pytest.mark.parametrize("cfg", [*CLASS_LOSSES, OHEMConfig(), SoftmaxFocalConfig()])
def test_config_and_class_loss_agree_on_the_background_logit(cfg):
    assert build_class_loss(cfg).has_background_logit == cfg.has_background_logit


def test_class_losses_declare_what_they_need():
    losses = [build_class_loss(cfg) for cfg in (*CLASS_LOSSES, OHEMConfig(), SoftmaxFocalConfig())]
    assert {type(loss) for loss in losses if loss.needs_iou} == {QualityFocalLoss, VarifocalLoss}
    assert {type(loss) for loss in losses if loss.has_background_logit} == {SoftmaxFocalLoss}
