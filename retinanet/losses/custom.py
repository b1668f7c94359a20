"""Losses passed in Python: tell a class loss from a whole criterion, and check them before the first step."""

import inspect
from typing import Any, TypeGuard

from torch import nn

from retinanet.config.custom import part_name
from retinanet.errors import InputError
from retinanet.losses.class_loss import ClassLoss


def is_class_loss(loss: Any) -> TypeGuard[ClassLoss]:
    """Whether a loss is a `ClassLoss`, which declares `needs_iou`; otherwise it is a `Criterion`."""
    return hasattr(loss, "needs_iou")


def check_loss(loss: Any, *, background_logit: bool) -> None:
    """Check a user's loss as far as possible without calling it.

    Args:
        background_logit: whether the logits of the model have a last column for background.

    Raises:
        InputError: the loss is not a `ClassLoss` or a `Criterion`, has parameters to train, or does not fit the logits.
    """
    name = part_name(loss)
    if not callable(loss) or isinstance(loss, type):
        found = f"the class {name}" if isinstance(loss, type) else name
        raise InputError(f"loss: found {found}, expected a function or an object that can be called")
    arguments = "logits, labels, valid, iou" if is_class_loss(loss) else "outputs, assignment, targets, num_positive"
    try:
        inspect.signature(loss).bind(*arguments.split(", "))
    except TypeError as error:
        raise InputError(
            f"loss: {name} cannot be called with ({arguments}): {error}; a class loss has the attributes needs_iou and "
            "has_background_logit, see retinanet.losses.class_loss.ClassLoss; any other loss has the arguments of "
            "retinanet.losses.detection.Criterion"
        ) from None
    if isinstance(loss, nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
        raise InputError(f"loss: {name} has parameters, which the optimizer would not train; move them to the model")
    if is_class_loss(loss) and loss.has_background_logit != background_logit:
        has = "with" if background_logit else "without"
        raise InputError(
            f"loss: {name} has has_background_logit={loss.has_background_logit}, but the model computes logits {has} "
            "one for background; set model.class_activation to softmax (with) or sigmoid (without)"
        )
