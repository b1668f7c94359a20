"""Report on a replayed step: where values became non-finite, and what to do about it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

MOST_LISTED = 5  # maximum number of names or boxes listed before the report abbreviates


class ImageReport(NamedTuple):
    """An image, and the losses and gradient of the step when run on this image alone.

    The losses are divided by the number of positive anchors in the global batch, as in the original step.
    """

    image_id: int | str
    size: tuple[int, int]  # height and width, without padding
    pixels: tuple[int, int, float]  # minimum, maximum, mean
    num_boxes: int  # including crowd regions
    sides: tuple[float, float] | None  # shortest and longest box side in pixels; None without boxes
    invalid_boxes: list[str]  # one line for each box that is not finite, has no area, or is outside the image
    classification: float
    box_regression: float
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        return _finite(self.classification, self.box_regression, self.grad_norm)


class ReplayReport(NamedTuple):
    """Result of a replayed step."""

    step: int
    device: str
    dtype: torch.dtype
    loss_scale: float
    num_positive: float
    bad_weights: list[str]  # names of weights that were already non-finite before the step
    class_per_level: list[float]  # finest level first; weighted and normalised as in the total loss
    box_per_level: list[float]
    grad_norm: float
    first_in_forward: str | None  # first operation with a non-finite result
    first_in_backward: str | None
    bad_gradients: list[str]  # names of parameters with non-finite gradients
    num_gradients: int
    images: list[ImageReport]
    note: str = ""

    @property
    def is_finite(self) -> bool:
        return _finite(*self.class_per_level, *self.box_per_level, self.grad_norm)

    def describe(self) -> str:
        """Format the report as text of several lines."""
        precision = str(self.dtype).removeprefix("torch.")
        scaled = f", loss scaled by {self.loss_scale:g}" if self.loss_scale != 1 else ""
        outcome = "all values are finite" if self.is_finite else f"gradient norm {self.grad_norm:g}"
        lines = [
            f"step {self.step} replayed on {self.device} in {precision}{scaled}, {len(self.images)} images, "
            f"{self.num_positive:g} positive anchors: {outcome}"
        ]
        if self.note:
            lines.append(self.note)
        if self.bad_weights:
            lines.append(f"non-finite weights before the step: {_listed(self.bad_weights)}")
        lines.append(f"first non-finite value in the forward pass: {self.first_in_forward or 'none'}")
        if _finite(*self.class_per_level, *self.box_per_level):  # otherwise the gradient cannot be finite
            lines.append(f"first non-finite value in the backward pass: {self.first_in_backward or 'none'}")
        if self.bad_gradients:
            lines.append(
                f"non-finite gradients: {len(self.bad_gradients)} of {self.num_gradients}: "
                f"{_listed(self.bad_gradients)}"
            )
        lines.append("loss of each level (class, box):")
        for level, values in enumerate(zip(self.class_per_level, self.box_per_level, strict=True), start=3):
            lines.append(f"  P{level} {values[0]:12.6g} {values[1]:12.6g}")
        lines.append("each image separately (class loss, box loss, gradient norm):")
        for image in self.images:
            height, width = image.size
            minimum, maximum, mean = image.pixels
            boxes = "1 box" if image.num_boxes == 1 else f"{image.num_boxes} boxes"
            if image.sides is not None:
                boxes += f" with sides of {image.sides[0]:g} to {image.sides[1]:g}"
            mark = "" if image.is_finite else "  <-- not finite"
            lines.append(
                f"  id {image.image_id}: {image.classification:.6g}, {image.box_regression:.6g}, {image.grad_norm:.6g};"
                f" {width}x{height}, pixels {minimum} to {maximum}, mean {mean:.1f}, {boxes}{mark}"
            )
            lines.extend(f"    invalid: {line}" for line in image.invalid_boxes[:MOST_LISTED])
            if len(image.invalid_boxes) > MOST_LISTED:
                lines.append(f"    and {len(image.invalid_boxes) - MOST_LISTED} more invalid boxes")
        lines.append(self.advice())
        return "\n".join(lines)

    def advice(self) -> str:
        """State the most likely cause, and what to check or change first."""
        non_finite = [str(image.image_id) for image in self.images if not image.is_finite]
        invalid = [str(image.image_id) for image in self.images if image.invalid_boxes and not image.is_finite]
        if self.bad_weights:
            return "The weights were already non-finite because of an earlier step: resume from an older checkpoint."
        if self.is_finite:
            return "Not reproduced: check how this replay differs from the run, for example in device or precision."
        if invalid:
            return f"Check the annotations of {_listed(invalid)} first."
        if 0 < len(non_finite) < len(self.images):
            return f"Caused by {_listed(non_finite)}: check these images and their annotations."
        if self.first_in_forward is None and self.dtype == torch.float16:
            return (
                "The forward pass is finite: float16 overflowed in the backward pass; use a lower loss scale or bf16."
            )
        return "Not caused by a single image: lower train.optimizer.lr, raise train.warmup_steps, set train.clip_norm."


def _finite(*values: float) -> bool:
    return all(map(math.isfinite, values))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_LISTED]) + (
        f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    )
