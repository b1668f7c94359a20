"""Draw boxes on images."""

import colorsys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from retinanet.structures import Detections
from retinanet.visualization.fonts import Font, font_for
from retinanet.visualization.labels import place_labels

MIN_FONT_SIZE = 11  # pixels; smaller letters are hard to read


def draw_detections(
    image: Tensor,
    detections: Detections,
    class_names: Sequence[str] | None = None,
    *,
    min_score: float = 0.3,
    labels: bool = True,
    side: float | None = None,
) -> Tensor:
    """Draw the box, class name and score of each detection scoring at least `min_score` on a copy of the image.

    Args:
        image: (C, H, W) uint8; see `as_rgb` for other images than RGB.
        class_names: class names, indexed by label; defaults to those of the detections.
        labels: draw class names and scores.
        side: draw lines and letters as in an image whose shorter side has this length; None: that of the image.
    """
    if class_names is not None:
        detections = replace(detections, class_names=tuple(class_names))
    shown = detections[detections.scores >= min_score]
    # Lowest score first, so that the highest is drawn on top.
    boxes, scores, classes = shown.boxes.flip(0).cpu(), shown.scores.flip(0).tolist(), shown.labels.flip(0).tolist()
    texts = [
        f"{shown.class_name(label)} {score:.2f}" if labels else "" for label, score in zip(classes, scores, strict=True)
    ]
    num_classes = len(shown.class_names) if shown.class_names else max(classes, default=0) + 1
    return draw_boxes(image, boxes, texts, classes, num_classes, side=side)


def draw_boxes(
    image: Tensor, boxes: Tensor, texts: list[str], labels: list[int], num_classes: int, *, side: float | None = None
) -> Tensor:
    """Draw labelled boxes (N, 4) on a copy, (3, H, W), with one colour per class, the last box on top.

    Labels are inside the image and, as long as there is room, do not overlap. An empty text is not drawn.

    Args:
        side: see `draw_detections`.
    """
    image = as_rgb(image)
    if len(boxes) == 0:
        return image.clone()
    height, width = image.shape[-2:]
    side = min(height, width) if side is None else side
    limits = torch.tensor([width - 1, height - 1, width - 1, height - 1])
    corners = torch.minimum(boxes.clamp(min=0), limits).tolist()
    colors = [class_color(label, num_classes) for label in labels]
    canvas = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    draw = ImageDraw.Draw(canvas)
    for box, color in zip(corners, colors, strict=True):
        draw.rectangle(box, outline=color, width=max(1, round(side / 250)))
    with_text = [index for index in reversed(range(len(texts))) if texts[index]]  # the top box chooses its place first
    written = [_Label(draw, texts[index], width, side) for index in with_text]
    places = place_labels([corners[index] for index in with_text], [label.size for label in written], (height, width))
    for index, label, place in reversed(list(zip(with_text, written, places, strict=True))):
        label.draw(draw, place[:2], colors[index])
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous().to(image.device)


class _Label:
    """A text in a font that fits the image, with its size as a label."""

    def __init__(self, draw: ImageDraw.ImageDraw, text: str, image_width: int, side: float):
        size = max(MIN_FONT_SIZE, round(side / 40))
        self._measure(draw, text, size)
        if self.size[0] > image_width:  # smaller letters keep a long name inside the image
            self._measure(draw, text, max(6, size * image_width // self.size[0]))

    def _measure(self, draw: ImageDraw.ImageDraw, text: str, size: int) -> None:
        self._font: Font
        self._font, self._text = font_for(text, size)
        left, top, right, bottom = draw.textbbox((0, 0), self._text, font=self._font)
        _, highest, _, lowest = draw.textbbox((0, 0), "Ag", font=self._font)  # so that all labels have the same height
        top, bottom = min(top, highest), max(bottom, lowest)
        margin = max(1, size // 8)
        self._offset = margin - left, margin - top
        self.size = int(right - left) + 2 * margin, int(bottom - top) + 2 * margin

    def draw(self, draw: ImageDraw.ImageDraw, place: tuple[int, int], color: tuple[int, int, int]) -> None:
        """Draw the label with its upper left corner at a place."""
        x, y = place
        width, height = self.size
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
        ink = "black" if luminance(color) > 128 else "white"
        draw.text((x + self._offset[0], y + self._offset[1]), self._text, fill=ink, font=self._font)


SHOWN_CHANNELS = "the first three channels as red, green and blue"  # what `as_rgb` shows of more channels


def as_rgb(image: Tensor) -> Tensor:
    """Show an image (C, H, W) as RGB, (3, H, W): its first three channels or, if it has fewer, the first as grey."""
    return image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)


def luminance(color: tuple[int, int, int]) -> float:
    """Perceived brightness of a colour, 0..255 (Rec. 601)."""
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue


def class_color(label: int, num_classes: int) -> tuple[int, int, int]:
    """Colour of a label; neighbouring labels have very different hues."""
    hue = (label * 0.618034) % 1.0 if num_classes > 6 else label / max(num_classes, 1)
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.85, 0.85))
    return red, green, blue
