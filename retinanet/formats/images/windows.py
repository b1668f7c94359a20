"""Rectangular parts of an image, read one by one, so that an image larger than the memory can be processed."""

from typing import NamedTuple, Protocol

from torch import Tensor


class Window(NamedTuple):
    """A rectangle of whole pixels; `x2` and `y2` are exclusive."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.y2 - self.y1, self.x2 - self.x1


class WindowSource(Protocol):
    """An image of which parts can be read; `size` is (height, width) as displayed."""

    @property
    def size(self) -> tuple[int, int]: ...

    def read(self, window: Window) -> Tensor:
        """Return the pixels in a window inside the image: uint8 (C, height, width)."""


class DecodedImage:
    """An image in memory, uint8 (C, H, W), as a `WindowSource`."""

    def __init__(self, pixels: Tensor):
        self.pixels = pixels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.pixels.shape[-2:]
        return height, width

    def read(self, window: Window) -> Tensor:
        """Return a view of the pixels in a window: uint8 (C, height, width)."""
        return self.pixels[:, window.y1 : window.y2, window.x1 : window.x2]
