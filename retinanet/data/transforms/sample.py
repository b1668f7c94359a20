"""The sample record, an image with its boxes, and the operations that transforms use.

Rules for all transforms:
    Random transforms draw from torch's global generator, which the caller seeds.
    A transform does not change its input.
    Boxes are clipped to the image. If clipping leaves a side shorter than `MIN_SIDE`, the box is removed.
    Objects are removed if more than `MAX_COVERED` of them is covered; crowd regions are kept.
    No image exceeds its previous size or its padded shape, whichever is larger, so `data.max_pixels` bounds the memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

MIN_SIDE = 1.0  # pixels
MAX_COVERED = 0.7  # fraction of an object's box
FILL = (124, 116, 104)  # mean RGB values of ImageNet, for pixels outside any RGB image


class Sample(NamedTuple):
    """An image with its ground truth in pixel coordinates."""

    image: Tensor  # (C, H, W) uint8
    boxes: Tensor  # (N, 4) float32
    labels: Tensor  # (N,) int64
    is_crowd: Tensor  # (N,) bool
    is_complete: Tensor | None = None  # (K,) bool: classes whose objects are all annotated; None: all classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[-2], self.image.shape[-1]


class Window(NamedTuple):
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def limits(self) -> Tensor:
        """Corners (x1, y1, x2, y2): (4,) float32."""
        return torch.tensor([self.left, self.top, self.left + self.width, self.top + self.height], dtype=torch.float32)


def chance(p: float) -> bool:
    """Draw True with probability p."""
    return torch.rand(1).item() < p


def uniform(low: float, high: float) -> float:
    """Draw a number between low and high."""
    return torch.empty(()).uniform_(low, high).item()


def randint(low: int, high: int) -> int:
    """Draw an integer from low to high, inclusive."""
    return low + int(torch.randint(high - low + 1, ()))


def select(sample: Sample, kept: Tensor) -> Sample:
    """Keep some of the boxes, given by a mask (N,) or by indices."""
    return sample._replace(boxes=sample.boxes[kept], labels=sample.labels[kept], is_crowd=sample.is_crowd[kept])


def join(image: Tensor, parts: list[Sample]) -> Sample:
    """Combine an image with the boxes of several samples; a class is complete only if it is in all samples."""
    complete = [part.is_complete for part in parts if part.is_complete is not None]
    return Sample(
        image=image,
        boxes=torch.cat([part.boxes for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        is_crowd=torch.cat([part.is_crowd for part in parts]),
        is_complete=torch.stack(complete).all(dim=0) if complete else None,
    )


def clip(sample: Sample) -> Sample:
    """Clip boxes to the image, and remove those that are too small afterwards."""
    height, width = sample.size
    boxes = torch.minimum(sample.boxes.clamp(min=0), torch.tensor([width, height, width, height]))
    return select(sample._replace(boxes=boxes), ((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE).all(dim=1))


def crop(sample: Sample, window: Window) -> Sample:
    """Cut out a window inside the image."""
    top, left, height, width = window
    image = sample.image[:, top : top + height, left : left + width]
    return clip(sample._replace(image=image, boxes=sample.boxes - torch.tensor([left, top, left, top])))


def random_crop(sample: Sample, height: int, width: int) -> Sample:
    """Cut out a window of at most (height, width) at a random position."""
    old_height, old_width = sample.size
    height, width = min(height, old_height), min(width, old_width)
    top, left = randint(0, old_height - height), randint(0, old_width - width)
    return crop(sample, Window(top, left, height, width))


def resize(sample: Sample, height: int, width: int) -> Sample:
    """Resize to exactly (height, width)."""
    old_height, old_width = sample.size
    if (old_height, old_width) == (height, width):
        return sample
    image = sample.image
    if height == width == 1:  # torch 2.14 fails to shrink an image to one pixel unless its channels are interleaved
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    if width == 1 and len(image) != len(FILL):  # torch 2.14 resizes uint8 images wrongly to a width of 1
        image = F.resize(image.float(), [height, width], antialias=True).round_().to(torch.uint8)
    else:
        image = F.resize(image, [height, width], antialias=True)
    scale = torch.tensor([width / old_width, height / old_height] * 2)
    return sample._replace(image=image, boxes=sample.boxes * scale)


def random_resized_crop(sample: Sample, window: tuple[int, int], size: tuple[int, int]) -> Sample:
    """Cut out a window of at most the given height and width at a random position, and resize it to exactly `size`."""
    return clip(resize(random_crop(sample, *window), *size))


def fit_size(height: int, width: int, bounds: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an image scaled to just fit into (height, width), keeping its aspect ratio."""
    scale = min(bounds[0] / height, bounds[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def cover(sample: Sample, height: int, width: int) -> Sample:
    """Cut out a random window of maximal size with the aspect ratio of (height, width), and resize it to that size."""
    old_height, old_width = sample.size
    scale = max(height / old_height, width / old_width)
    window = max(1, round(height / scale)), max(1, round(width / scale))
    return random_resized_crop(sample, window, (height, width))


def shrink_to_fit(sample: Sample, bounds: tuple[int, int]) -> Sample:
    """Shrink an image that is larger than (height, width)."""
    height, width = sample.size
    if height <= bounds[0] and width <= bounds[1]:
        return sample
    return resize(sample, *fit_size(height, width, bounds))


def blank(height: int, width: int, fill: Sequence[int] = FILL) -> Tensor:
    """Create a blank image: (C, H, W) uint8, with one value per channel."""
    return torch.tensor(fill, dtype=torch.uint8).reshape(-1, 1, 1).repeat(1, height, width)


def paste(image: Tensor, part: Sample, top: int, left: int) -> Sample:
    """Copy a sample into an image, in place, and return the visible part in the image's coordinates.

    Args:
        image: (C, H, W).
        top, left: position of the sample's upper left corner. It may be negative, and the sample may extend beyond the
            image.
    """
    height, width = image.shape[-2:]
    y1, x1 = max(0, -top), max(0, -left)
    y2, x2 = min(part.size[0], height - top), min(part.size[1], width - left)
    part = crop(part, Window(y1, x1, max(0, y2 - y1), max(0, x2 - x1)))
    top, left = top + y1, left + x1
    image[:, top : top + part.size[0], left : left + part.size[1]] = part.image
    return part._replace(image=image, boxes=part.boxes + torch.tensor([left, top, left, top]))


def remove_covered(sample: Sample, window: Window) -> Sample:
    """Remove objects if a window covers more than `MAX_COVERED` of their boxes."""
    return select(sample, sample.is_crowd | (share_inside(sample.boxes, window) <= MAX_COVERED))


def share_inside(boxes: Tensor, window: Window) -> Tensor:
    """Compute the fraction of each box's area that is inside a window: (N,)."""
    x1, y1, x2, y2 = boxes.T
    left, top, right, bottom = window.limits
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
    return width * height / ((x2 - x1) * (y2 - y1))
