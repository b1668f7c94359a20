import functools

import pytest
import torch
from torch import nn

from retinanet.config import LossConfig
from retinanet.errors import InputError
from retinanet.losses.build import build_criterion
from retinanet.losses.custom import check_loss, is_class_loss
from retinanet.losses.detection import DetectionLoss, Losses
from tests.helpers.custom_parts import CrossEntropy


def criterion(outputs, assignment, targets, num_positive):
    return Losses(torch.zeros(()), torch.zeros(()))


class Trainable(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, outputs, assignment, targets, num_positive):
        return criterion(outputs, assignment, targets, num_positive)


class OfTwo(CrossEntropy):
    def __call__(self, logits, labels):
        return logits.sum()


def test_class_loss_is_combined_with_the_configured_box_loss():
    built = build_criterion(LossConfig(box_weight=3.0), CrossEntropy())
    assert isinstance(built, DetectionLoss) and isinstance(built.class_loss, CrossEntropy) and built.box_weight == 3.0
    assert build_criterion(LossConfig(), criterion) is criterion


def test_class_losses_are_recognised_by_their_attributes():
    assert is_class_loss(CrossEntropy()) and not is_class_loss(criterion)
    check_loss(CrossEntropy(), background_logit=False)
    check_loss(criterion, background_logit=True)
    check_loss(functools.partial(criterion), background_logit=False)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (CrossEntropy, "found the class .*CrossEntropy, expected a function or an object"),
        (OfTwo(), r"OfTwo cannot be called with \(logits, labels, valid, iou\)"),
        (
            lambda logits, labels, valid: 0,
            r"cannot be called with \(outputs, .*a class loss has the attributes needs_iou",
        ),
        (Trainable(), "Trainable has parameters, which the optimizer would not train"),
    ],
)
def test_wrong_loss_is_refused(loss, message):
    with pytest.raises(InputError, match=message):
        check_loss(loss, background_logit=False)


def test_background_logit_of_loss_and_model_must_agree():
    with pytest.raises(InputError, match=r"has_background_logit=False, but the model computes logits with one"):
        check_loss(CrossEntropy(), background_logit=True)
