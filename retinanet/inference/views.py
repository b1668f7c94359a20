"""The views of an image: the windows, orientations and sizes in which the network sees it."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.config import Config
from retinanet.data.build import build_padded_shapes, eval_shorter
from retinanet.data.padded_shapes import PaddedShapes
from retinanet.data.sampler import PlannedImage
from retinanet.formats.images.windows import Window


class View(NamedTuple):
    """A window of an image, resized, and flipped if `is_flipped`."""

    window: Window  # pixels of the original image
    is_flipped: bool  # horizontally
    planned: PlannedImage  # its size after resizing, and its padded shape

    def boxes_in_image(self, boxes: Tensor) -> Tensor:
        """Convert boxes (D, 4) in pixels of the window, as the network sees it, to pixels of the image."""
        if self.is_flipped:
            x1, y1, x2, y2 = boxes.unbind(-1)
            width = self.window.x2 - self.window.x1
            boxes = torch.stack([width - x2, y1, width - x1, y2], dim=-1)
        x, y = self.window[:2]
        return boxes + boxes.new_tensor([x, y, x, y]) if x or y else boxes


class Scale(NamedTuple):
    """A size to which images and tiles are resized."""

    shorter: int  # target length of the shorter side, pixels
    padded_shapes: PaddedShapes

    def planned(self, size: tuple[int, int]) -> PlannedImage:
        """Return how an image whose (height, width) is `size` is resized and padded."""
        padded_shape = self.padded_shapes.padded_shape(self.padded_shapes.bucket(*size), self.shorter)
        return PlannedImage(0, 0, self.shorter, self.padded_shapes.longer, padded_shape, padded_shape)


class Views:
    """Lists the views of images.

    Args:
        scales: the sizes of the views of each window; the first is that of an image without augmentation.
        flip: whether each view is also flipped.
        tile_size: side of a tile in pixels of the original image; None: only the whole image is seen.
        overlap: smallest overlap of neighbouring tiles, as a share of `tile_size`.
        whole_image: whether the whole image is seen in addition to its tiles.
    """

    def __init__(
        self,
        scales: list[Scale],
        *,
        flip: bool = False,
        tile_size: int | None = None,
        overlap: float = 0.2,
        whole_image: bool = True,
    ):
        self.scales = scales
        self.flip = flip
        self.tile_size = tile_size
        self.overlap = overlap
        self.whole_image = whole_image

    def of(self, size: tuple[int, int]) -> list[View]:
        """List the views of an image whose (height, width) is `size`; those of one window follow each other."""
        return [
            View(window, is_flipped, planned)
            for window in self.windows(size)
            for planned in (scale.planned(window.size) for scale in self.scales)
            for is_flipped in ((False, True) if self.flip else (False,))
        ]

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """List the windows of an image whose (height, width) is `size`: the whole image, and its tiles by row."""
        height, width = size
        whole = Window(0, 0, width, height)
        if self.tile_size is None or max(size) <= self.tile_size:
            return [whole]
        tiles = [
            Window(x1, y1, x2, y2)
            for y1, y2 in tile_spans(height, self.tile_size, self.overlap)
            for x1, x2 in tile_spans(width, self.tile_size, self.overlap)
        ]
        return [whole, *tiles] if self.whole_image else tiles

    @property
    def has_several(self) -> bool:
        """Whether some images have more views than the plain one, the whole image at its usual size."""
        return self.flip or len(self.scales) > 1 or self.tile_size is not None

    def all_shapes(self) -> list[tuple[int, int]]:
        """List every padded shape, (height, width), that a view can have."""
        shapes = (scale.padded_shapes.all_shapes(scale.shorter) for scale in self.scales)
        return sorted(set(itertools.chain.from_iterable(shapes)))


def tile_spans(length: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """Divide a side of an image into tiles that overlap: (start, end) of each, in pixels.

    All tiles are `tile` pixels long. The last one is moved inward, so that it ends with the image. A shorter side
    becomes a single tile.
    """
    if length <= tile:
        return [(0, length)]
    step = max(1, tile - round(tile * overlap))
    starts = [*range(0, length - tile, step), length - tile]
    return [(start, start + tile) for start in starts]


def build_views(cfg: Config) -> Views:
    """Build the views from `inference.tile`, `inference.augment` and `data.resize`."""
    shorter, padded_shapes = eval_shorter(cfg.data), build_padded_shapes(cfg.data)
    scales = [Scale(shorter, padded_shapes)]
    for factor in cfg.inference.augment.scales:
        scaled = max(1, round(shorter * factor))
        longer = max(scaled, round(padded_shapes.longer * factor))
        shapes = PaddedShapes(longer=longer, aspects=padded_shapes.aspects, divisor=padded_shapes.divisor)
        scales.append(Scale(scaled, shapes))
    tile = cfg.inference.tile
    return Views(
        scales,
        flip=cfg.inference.augment.flip,
        tile_size=tile.size,
        overlap=tile.overlap,
        whole_image=tile.whole_image,
    )
