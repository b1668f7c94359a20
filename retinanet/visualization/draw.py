"""Images with boxes drawn on them."""

import colorsys

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from retinanet.structures import Detections


def draw_detections(
    image: Tensor, detections: Detections, class_names: tuple[str, ...], *, min_score: float = 0.3
) -> Tensor:
    """A copy of a uint8 (3, H, W) image with a box, class and score for each detection from `min_score` upwards."""
    shown = detections.scores >= min_score
    # Weakest first, so that the best lie on top.
    boxes, scores, labels = (tensor[shown].flip(0).cpu() for tensor in detections)
    texts = [f"{class_names[label]} {score:.2f}" for label, score in zip(labels.tolist(), scores.tolist(), strict=True)]
    return draw_boxes(image, boxes, texts, labels.tolist(), len(class_names))


def draw_boxes(image: Tensor, boxes: Tensor, texts: list[str], labels: list[int], num_classes: int) -> Tensor:
    """Boxes (N, 4) with a text each, one colour a class; lines grow with the image."""
    if len(boxes) == 0:
        return image.clone()
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


def luminance(color: tuple[int, int, int]) -> float:
    """How bright a colour looks, 0..255 (Rec. 601)."""
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue


def class_color(label: int, num_classes: int) -> tuple[int, int, int]:
    """Colours far apart for neighbouring labels."""
    hue = (label * 0.618034) % 1.0 if num_classes > 6 else label / max(num_classes, 1)
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.85, 0.85))
