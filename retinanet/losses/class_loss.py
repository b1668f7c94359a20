"""Interface of the class losses."""

from typing import Protocol

from torch import Tensor


class ClassLoss(Protocol):
    """Classification loss of a batch of anchors, summed over the anchors.

    Attributes:
        needs_iou: whether calls must pass `iou`, the IoU of each anchor's decoded box with its object.
        has_background_logit: whether the logits have an additional last column for background and form a single
            distribution (softmax). Otherwise, each of the K logits is a separate binary prediction (sigmoid).
    """

    needs_iou: bool
    has_background_logit: bool

    def __call__(self, logits: Tensor, labels: Tensor, valid: Tensor, iou: Tensor | None = None) -> Tensor:
        """Compute the summed loss, differentiable once with respect to the logits.

        Args:
            logits: (..., K), or (..., K + 1) with a background logit; any float type. The computation uses
                float32, or float64 for float64 logits; the gradient is rounded once, to the dtype of the logits.
            labels: (...) int64, 0..K-1, or K for background. Not range-checked: that would synchronise the device.
            valid: (...) bool, False for ignored anchors, which contribute neither loss nor gradient.
            iou: (...) float32, 0..1; receives no gradient, and is read only for anchors with a class. Required if the
                loss sets `needs_iou`, otherwise unused.

        Returns: (), float32, or float64 for float64 logits.

        Raises:
            ValueError: the shape of `labels` or `valid` does not match the logits, the number of class weights is
                wrong, or a required `iou` is missing.
        """


def check_anchors(logits: Tensor, labels: Tensor, valid: Tensor) -> None:
    """Check that `labels` and `valid` have one value for each anchor of logits (..., K).

    Raises:
        ValueError: a shape does not match.
    """
    for name, value in (("labels", labels), ("valid", valid)):
        if value.shape != logits.shape[:-1]:
            raise ValueError(
                f"{name}: found shape {tuple(value.shape)}, expected {tuple(logits.shape[:-1])} for logits of shape "
                f"{tuple(logits.shape)}"
            )
