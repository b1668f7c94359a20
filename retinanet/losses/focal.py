"""The focal loss for any classifier: a module and a function that need only torch.

Softmax mode replaces `torch.nn.functional.cross_entropy`; sigmoid mode replaces
`binary_cross_entropy_with_logits` and torchvision's `sigmoid_focal_loss`. With gamma 0, both equal torch's losses, bit
for bit. The formulas are in `focal_formulas.py`, their evaluation in `focal_kernels.py`. The detector has its own
interface to the same kernels (`sigmoid.py`, `softmax_focal.py`).
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from retinanet.losses.focal_arguments import IGNORE_INDEX, Normalizer, Reduction, check_inputs, check_settings
from retinanet.losses.focal_modes import sigmoid_loss, softmax_loss
from retinanet.losses.focal_terms import SigmoidTerms, SoftmaxTerms
from retinanet.losses.focal_weights import InverseFrequency, LabelWeights, Mode, label_weights, plain_alpha

__all__ = ["FocalLoss", "InverseFrequency", "LabelWeights", "focal_loss"]


class FocalLoss(nn.Module):
    """Focal loss -alpha_t (1 - p_t)^gamma log(p_t) of a softmax or of independent sigmoids (Lin et al. 2017, eq. 5).

    p_t is the predicted probability of the correct answer. With soft labels y in 0..1, each term of the cross entropy
    is multiplied by |y - p|^gamma instead, which is the same at 0 and 1 (Li et al. 2020, eq. 3).

    Args:
        mode: "softmax" for exclusive classes: one loss per target, with p from a softmax over the classes. "sigmoid"
            for independent binary predictions: one loss per logit.
        alpha: in softmax mode, one non-negative weight per class, or one number that multiplies the loss. In sigmoid
            mode, the weight in 0..1 of label 1, where label 0 has 1 - alpha: one number, or one per class; or
            `LabelWeights` for any non-negative weights. In both modes, `InverseFrequency(counts)`, or None for no
            weights. A sequence, array or tensor is copied.
        gamma: focusing exponent, at least 0; larger values down-weight well-classified examples more. 0 gives
            `cross_entropy` or `binary_cross_entropy_with_logits`, bit for bit.
        ignore_index: integer target without loss or gradient, which does not count in the mean. In sigmoid mode, also a
            label with this value.
        label_smoothing: 0..1, moves labels this share of the way to 1 / C (softmax) or 1/2 (sigmoid); the result is the
            loss of soft labels.
        reduction: "mean", "sum", or "none" for one loss per target (softmax) or per logit (sigmoid). As in torch, the
            mean divides by the number of losses that are not ignored, or, in softmax mode with a weight per class and
            class indices, by the sum of the targets' weights. If nothing counts, the mean and its gradient are 0;
            only this differs from torch, which returns NaN.
        normalizer: what the mean divides by instead: a number above 0, or "positives" for the number of labels above 0
            (sigmoid mode), at least 1, as in RetinaNet.

    Raises:
        ValueError: an argument is invalid, or the mode does not use it.
    """

    def __init__(
        self,
        mode: Mode = "softmax",
        *,
        alpha: float | Sequence[float] | Tensor | InverseFrequency | LabelWeights | None = None,
        gamma: float = 2.0,
        ignore_index: int = IGNORE_INDEX,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        normalizer: Normalizer = None,
    ):
        super().__init__()
        check_settings(mode, gamma, ignore_index, label_smoothing, reduction, normalizer)
        self.mode: Mode = mode
        self.alpha = plain_alpha(alpha, mode)
        self.gamma = float(gamma)
        self.ignore_index = int(ignore_index)
        self.label_smoothing = float(label_smoothing)
        self.reduction: Reduction = reduction
        self.normalizer: Normalizer = normalizer

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss; see `focal_loss` for arguments, result and errors."""
        return focal_loss(
            logits,
            targets,
            self.mode,
            alpha=self.alpha,
            gamma=self.gamma,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
            normalizer=self.normalizer,
        )

    def extra_repr(self) -> str:
        weights = f"{len(self.alpha)} weights" if isinstance(self.alpha, tuple) else self.alpha
        text = f"{self.mode!r}, alpha={weights}, gamma={self.gamma}, ignore_index={self.ignore_index}"
        text += f", label_smoothing={self.label_smoothing}, reduction={self.reduction!r}"
        return text if self.normalizer is None else f"{text}, normalizer={self.normalizer!r}"


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    mode: Mode = "softmax",
    *,
    alpha: float | Sequence[float] | Tensor | InverseFrequency | LabelWeights | None = None,
    gamma: float = 2.0,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    normalizer: Normalizer = None,
) -> Tensor:
    """Compute the focal loss; `mode` and the keyword arguments are described in `FocalLoss`.

    The loss can be differentiated any number of times with respect to the logits. The gradient has their dtype; the
    computation uses float32, or float64 for float64 logits, also under autocast. In eager mode, autograd keeps only the
    logits and the targets.

    Args:
        logits: softmax: (N, C), (N, C, d1, ...) or (C,), with at least two classes. sigmoid: the same, or any shape for
            labels of that shape. Any float type.
        targets: softmax: class indices 0..C-1 of shape (N,), (N, d1, ...) or (), or soft labels of the logits' shape.
            sigmoid: labels of the logits' shape, 0 or 1 as integers or bool, or 0..1 as floats. Or class indices of the
            shapes above: 0..C-1 for label 1 in that class and 0 in the others, C for 0 in all classes. Class indices
            for a single class are ambiguous and rejected.

    Returns: (), or one loss per target or logit for reduction "none"; float32, or float64 for float64 logits.

    Raises:
        ValueError: an argument is invalid or unused, a shape or dtype is wrong, or a target on the CPU is out of range.
            On other devices, targets are not range-checked, which would synchronise the device; a wrong class index is
            then an error of the device in softmax mode, and no class in sigmoid mode.
    """
    check_settings(mode, gamma, ignore_index, label_smoothing, reduction, normalizer)
    alpha = plain_alpha(alpha, mode)
    of_classes = check_inputs(logits, targets, mode=mode, alpha=alpha, ignore_index=ignore_index)
    device = logits.device.type
    # Autocast would compute some sums in half precision. Not every type of device has it.
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        if mode == "softmax":
            assert not isinstance(alpha, LabelWeights)  # `plain_alpha` rejects them
            softmax = SoftmaxTerms(alpha, gamma, label_smoothing, ignore_index, of_classes)
            return softmax_loss(logits, targets, softmax, reduction, normalizer)
        sigmoid = SigmoidTerms(label_weights(alpha), gamma, label_smoothing, ignore_index, of_classes)
        return sigmoid_loss(logits, targets, sigmoid, reduction, normalizer)
