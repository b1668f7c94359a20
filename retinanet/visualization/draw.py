"""Draw boxes on images."""

import colorsys
from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import features
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from retinanet.structures import Detections


def draw_detections(
    image: Tensor, detections: Detections, class_names: Sequence[str] | None = None, *, min_score: float = 0.3
) -> Tensor:
    """Draw the box, class name and score of each detection scoring at least `min_score` on a copy of the image.

    Args:
        image: (C, H, W) uint8; see `as_rgb` for other images than RGB.
        class_names: class names, indexed by label; defaults to those of the detections.
    """
    if class_names is not None:
        detections = replace(detections, class_names=tuple(class_names))
    shown = detections[detections.scores >= min_score]
    # Lowest score first, so that the highest is drawn on top.
    boxes, scores, labels = shown.boxes.flip(0).cpu(), shown.scores.flip(0).tolist(), shown.labels.flip(0).tolist()
    texts = [f"{shown.class_name(label)} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    num_classes = len(shown.class_names) if shown.class_names else max(labels, default=0) + 1
    return draw_boxes(image, boxes, texts, labels, num_classes)


def draw_boxes(image: Tensor, boxes: Tensor, texts: list[str], labels: list[int], num_classes: int) -> Tensor:
    """Draw labelled boxes (N, 4) on a copy, (3, H, W), with one colour per class.

    The line width scales with the image size.
    """
    image = as_rgb(image)
    if len(boxes) == 0:
        return image.clone()
    if not features.check("freetype2"):  # the fallback font has only Latin-1 letters
        texts = [text.encode("latin-1", "replace").decode("latin-1") for text in texts]
    short = min(image.shape[-2:])
    height, width = image.shape[-2:]
    limits = torch.tensor([width - 1, height - 1, width - 1, height - 1])
    colors = [class_color(label, num_classes) for label in labels]
    return draw_bounding_boxes(
        image,
        torch.minimum(boxes.clamp(min=0), limits),
        labels=texts,
        colors=colors,
        width=max(1, round(short / 250)),
        label_colors=["black" if luminance(color) > 128 else "white" for color in colors],
        fill_labels=True,
    )


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
