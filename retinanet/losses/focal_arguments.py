"""Check the arguments and inputs of the public focal loss."""

from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from retinanet.losses.arguments import check_number
from retinanet.losses.focal_kernels import is_transformed
from retinanet.losses.focal_weights import Alpha, LabelWeights, Mode, Reduction

Normalizer = Literal["positives"] | float | None

IGNORE_INDEX = -100
INTEGER_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_settings(
    mode: Any, gamma: Any, ignore_index: Any, label_smoothing: Any, reduction: Any, normalizer: Any
) -> None:
    """Check the arguments that do not depend on the logits, except `alpha`.

    Raises:
        ValueError: an argument is invalid, or has no effect with the others.
    """
    if isinstance(mode, Integral):
        raise ValueError(
            f"mode: found {mode!r}, expected 'softmax' or 'sigmoid'; the number of classes is no longer an argument, "
            "it is read from the logits: FocalLoss(5, alpha, gamma) is now FocalLoss(alpha=alpha, gamma=gamma)"
        )
    _check_choice("mode", mode, get_args(Mode))
    check_number("gamma", gamma, low=0)
    if not isinstance(ignore_index, Integral) or isinstance(ignore_index, bool):
        raise ValueError(f"ignore_index: found {ignore_index!r}, expected an integer")
    check_number("label_smoothing", label_smoothing, low=0, high=1)
    _check_choice("reduction", reduction, get_args(Reduction))
    if normalizer is None:
        return
    if reduction != "mean":
        raise ValueError(
            f"normalizer: found {normalizer!r} with reduction {reduction!r}, expected None: it replaces the count that "
            "the mean divides by"
        )
    if isinstance(normalizer, str):
        _check_choice("normalizer", normalizer, ("positives",))
        if mode == "softmax":
            raise ValueError(
                "normalizer: found 'positives' in softmax mode, where every target has a class and none is negative; "
                "use None or a number"
            )
    else:
        check_number("normalizer", normalizer, low=0, above=True)


def check_inputs(logits: Any, targets: Any, *, mode: Mode, alpha: Alpha, ignore_index: int) -> bool:
    """Check logits and targets, and return whether the targets are class indices.

    Raises:
        ValueError: a type, shape or dtype is wrong or ambiguous, `alpha` has the wrong length, or a target on the CPU
            is out of range. Elsewhere, the range check would synchronise the device.
    """
    for name, value in (("logits", logits), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}: found {type(value).__name__}, expected a torch.Tensor")
    if not logits.is_floating_point():
        raise ValueError(f"logits: found {logits.dtype}, expected a float type")
    if targets.requires_grad:
        raise ValueError("targets: found requires_grad=True, but targets receive no gradient; pass targets.detach()")
    if mode == "softmax":
        of_classes = _check_softmax_shapes(logits, targets, ignore_index)
    else:
        of_classes = _check_sigmoid_shapes(logits, targets, ignore_index)
    for weights in (alpha.positive, alpha.negative) if isinstance(alpha, LabelWeights) else (alpha,):
        if isinstance(weights, tuple):
            _check_length(weights, logits, of_classes)
    if targets.device.type == "cpu" and targets.numel() and not torch.compiler.is_compiling():
        if not is_transformed(targets):
            _check_range(targets, _highest_target(logits, targets, mode, of_classes), ignore_index)
    return of_classes


def _check_softmax_shapes(logits: Tensor, targets: Tensor, ignore_index: int) -> bool:
    if logits.ndim == 0 or _num_classes(logits) < 2:
        raise ValueError(
            f"logits: found shape {tuple(logits.shape)}, expected (N, C) or (N, C, d1, ...) with at least two classes: "
            "a softmax over one class is always 1; for one logit per binary prediction, use mode='sigmoid'"
        )
    if targets.is_floating_point():
        if targets.shape != logits.shape:
            raise ValueError(_wrong_shape(targets, logits, f"{tuple(logits.shape)} for soft labels"))
        if ignore_index != IGNORE_INDEX:
            raise ValueError(f"ignore_index: found {ignore_index} with soft labels, which have no index to ignore")
        return False
    if targets.dtype not in INTEGER_TYPES:
        raise ValueError(
            f"targets: found {targets.dtype}, expected class indices (an integer type) or soft labels (a float type)"
        )
    if targets.shape != _index_shape(logits):
        raise ValueError(_wrong_shape(targets, logits, f"{_index_shape(logits)} for class indices"))
    return True


def _check_sigmoid_shapes(logits: Tensor, targets: Tensor, ignore_index: int) -> bool:
    if targets.dtype != torch.bool and targets.dtype not in INTEGER_TYPES and not targets.is_floating_point():
        raise ValueError(f"targets: found {targets.dtype}, expected an integer, float or bool type")
    if targets.shape == logits.shape:
        if ignore_index in (0, 1):
            raise ValueError(
                f"ignore_index: found {ignore_index}, which is a label; use another number for ignored targets"
            )
        return False
    is_index = targets.dtype in INTEGER_TYPES and logits.ndim > 0 and targets.shape == _index_shape(logits)
    if not is_index:
        allowed = f"{tuple(logits.shape)} for labels in 0..1"
        if logits.ndim > 0:
            allowed += f", or {_index_shape(logits)} for class indices (an integer type)"
        raise ValueError(_wrong_shape(targets, logits, allowed))
    if _num_classes(logits) == 1:
        raise ValueError(
            f"targets: found shape {tuple(targets.shape)} for logits of shape {tuple(logits.shape)}, which is "
            "ambiguous: as class indices, 0 would be the class and 1 no class; for labels 0 and 1, give both the same "
            "shape, with targets.unsqueeze(1) or logits.squeeze(1)"
        )
    return True


def _check_length(alpha: tuple[float, ...], logits: Tensor, of_classes: bool) -> None:
    if logits.ndim < 2 and not of_classes:
        raise ValueError(
            f"alpha: found {len(alpha)} weights for logits of shape {tuple(logits.shape)}, which have no class "
            "dimension; pass one number, or logits of shape (N, C)"
        )
    if len(alpha) != _num_classes(logits):
        raise ValueError(f"alpha: found {len(alpha)} weights for {_num_classes(logits)} classes; pass one per class")


def _highest_target(logits: Tensor, targets: Tensor, mode: Mode, of_classes: bool) -> int:
    if not of_classes:
        return 1
    return _num_classes(logits) - (mode == "softmax")


def _check_range(targets: Tensor, highest: int, ignore_index: int) -> None:
    if targets.dtype == torch.bool:
        return
    low, high = (value.item() for value in targets.aminmax())
    if not (0 <= low and high <= highest):  # also if one is NaN
        # An 8-bit target cannot be compared with -100.
        wide = targets if targets.is_floating_point() else targets.long()
        low, high = (value.item() for value in wide.masked_fill(wide == ignore_index, 0).aminmax())
        if not (0 <= low and high <= highest):
            raise ValueError(
                f"targets: found values in {low}..{high}, expected 0..{highest}, or {ignore_index} for ignored targets"
            )


def _num_classes(logits: Tensor) -> int:
    return logits.shape[min(1, logits.ndim - 1)]


def _index_shape(logits: Tensor) -> tuple[int, ...]:
    """Shape of class indices: that of the logits without the class dimension."""
    return () if logits.ndim == 1 else (logits.shape[0], *logits.shape[2:])


def _wrong_shape(targets: Tensor, logits: Tensor, expected: str) -> str:
    return (
        f"targets: found shape {tuple(targets.shape)}, expected {expected}, for logits of shape {tuple(logits.shape)}"
    )


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: found {value!r}, expected one of {', '.join(map(repr, choices))}")
