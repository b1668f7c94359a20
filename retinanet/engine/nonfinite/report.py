"""What a person is told about a step that was taken again."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

MOST_LISTED = 5  # names or boxes in one line of a report


class ImageReport(NamedTuple):
    """An image of the step, and the step taken with it alone, divided by the same number of positive anchors."""

    image_id: int | str
    size: tuple[int, int]  # height and width inside the padding
    pixels: tuple[int, int, float]  # least, most, mean
    num_boxes: int  # crowd regions included
    sides: tuple[float, float] | None  # shortest and longest of its boxes, pixels; None without a box
    odd_boxes: list[str]  # one line on each that is not finite, without an area, or outside the image
    classification: float
    box_regression: float
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        return _finite(self.classification, self.box_regression, self.grad_norm)


class ReplayReport(NamedTuple):
    """What a step did when it was taken again."""

    step: int
    device: str
    dtype: torch.dtype
    loss_scale: float
    num_positive: float
    bad_weights: list[str]  # not finite before the step
    class_per_level: list[float]  # finest first; as in the loss, weighted and divided
    box_per_level: list[float]
    grad_norm: float
    first_in_forward: str | None  # where a value that is not finite first comes out
    first_in_backward: str | None
    bad_gradients: list[str]  # parameters
    num_gradients: int
    images: list[ImageReport]
    note: str = ""

    @property
    def is_finite(self) -> bool:
        return _finite(*self.class_per_level, *self.box_per_level, self.grad_norm)

    def describe(self) -> str:
        """For a person."""
        precision = str(self.dtype).removeprefix("torch.")
        scaled = f", loss scaled by {self.loss_scale:g}" if self.loss_scale != 1 else ""
        outcome = "everything is finite here" if self.is_finite else f"gradient norm {self.grad_norm:g}"
        lines = [
            f"step {self.step} again, on {self.device} in {precision}{scaled}, {len(self.images)} images, "
            f"{self.num_positive:g} positive anchors: {outcome}"
        ]
        if self.note:
            lines.append(self.note)
        if self.bad_weights:
            lines.append(f"weights that were not finite before the step: {_listed(self.bad_weights)}")
        lines.append(f"first value that is not finite on the way forward: {self.first_in_forward or 'none'}")
        if _finite(*self.class_per_level, *self.box_per_level):  # else its gradient cannot be
            lines.append(f"first value that is not finite on the way back: {self.first_in_backward or 'none'}")
        if self.bad_gradients:
            lines.append(
                f"gradients that are not finite: {len(self.bad_gradients)} of {self.num_gradients}: "
                f"{_listed(self.bad_gradients)}"
            )
        lines.append("loss of each level, class and box:")
        for level, values in enumerate(zip(self.class_per_level, self.box_per_level, strict=True), start=3):
            lines.append(f"  P{level} {values[0]:12.6g} {values[1]:12.6g}")
        lines.append("each image alone, class loss, box loss, gradient norm:")
        for image in self.images:
            height, width = image.size
            least, most, mean = image.pixels
            boxes = "1 box" if image.num_boxes == 1 else f"{image.num_boxes} boxes"
            if image.sides is not None:
                boxes += f" with sides of {image.sides[0]:g} to {image.sides[1]:g}"
            mark = "" if image.is_finite else "  <-- not finite"
            lines.append(
                f"  id {image.image_id}: {image.classification:.6g}, {image.box_regression:.6g}, {image.grad_norm:.6g};"
                f" {width}x{height}, pixels {least} to {most}, mean {mean:.1f}, {boxes}{mark}"
            )
            lines.extend(f"    odd: {line}" for line in image.odd_boxes[:MOST_LISTED])
            if len(image.odd_boxes) > MOST_LISTED:
                lines.append(f"    and {len(image.odd_boxes) - MOST_LISTED} more odd boxes")
        lines.append(self.advice())
        return "\n".join(lines)

    def advice(self) -> str:
        guilty = [str(image.image_id) for image in self.images if not image.is_finite]
        odd = [str(image.image_id) for image in self.images if image.odd_boxes and not image.is_finite]
        if self.bad_weights:
            return "The weights were broken before: the fault is in an earlier step; go back to an older checkpoint."
        if self.is_finite:
            return "Not seen again: look at what differs here, the device, the precision, or its memory."
        if odd:
            return f"Look at the annotations of {_listed(odd)} first."
        if 0 < len(guilty) < len(self.images):
            return f"It comes from {_listed(guilty)}: look at these images and their annotations."
        if self.first_in_forward is None and self.dtype == torch.float16:
            return (
                "The forward pass is finite: float16 overflowed on the way back; a lower loss scale or bf16 cures it."
            )
        return "It comes from no image alone: lower train.optimizer.lr, raise train.warmup_steps, set train.clip_norm."


def _finite(*values: float) -> bool:
    return all(map(math.isfinite, values))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_LISTED]) + (
        f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    )
