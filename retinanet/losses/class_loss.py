"""The interface of all class losses."""

from typing import Protocol

from torch import Tensor


class ClassLoss(Protocol):
    """Classification loss of a batch of anchors, summed over the anchors.

    Attributes:
        needs_iou: the loss must be given `iou`, the IoU of each anchor's decoded box with its object.
        has_background_logit: the logits have one more column than there are classes, the last one for background, and
            form one distribution (softmax). Otherwise each of the K logits is a separate yes or no (sigmoid).
    """

    needs_iou: bool
    has_background_logit: bool

    def __call__(self, logits: Tensor, labels: Tensor, valid: Tensor, iou: Tensor | None = None) -> Tensor:
        """Compute the summed loss, differentiable once with respect to the logits.

        Args:
            logits: (..., K), or (..., K + 1) with a background logit; any float type. Arithmetic is float32, or float64
                for float64 logits; the gradient is rounded once to the type of the logits.
            labels: (...) int64, 0..K-1, or K for background. Not range-checked: that would synchronise the device.
            valid: (...) bool, False for ignored anchors, which contribute neither loss nor gradient.
            iou: (...) float32, 0..1; gets no gradient, and is read only for anchors with a class. Required if the loss
                declares `needs_iou`, otherwise unused.

        Returns: (), float32, float64 for float64 logits.

        Raises:
            ValueError: `labels` or `valid` do not match the anchors of the logits, there are class weights for another
                number of classes, or a required `iou` is missing.
        """


def check_anchors(logits: Tensor, labels: Tensor, valid: Tensor) -> None:
    """Check that there is one label and one flag for each anchor of logits (..., K).

    Raises:
        ValueError: a shape differs.
    """
    for name, value in (("labels", labels), ("valid", valid)):
        if value.shape != logits.shape[:-1]:
            raise ValueError(
                f"{name}: found shape {tuple(value.shape)}, expected {tuple(logits.shape[:-1])} for logits of shape "
                f"{tuple(logits.shape)}"
            )
