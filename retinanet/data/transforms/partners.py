"""Other images that a transform combines with a planned image, and the interface of all transforms."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from retinanet.data.sampler import PlannedImage, stable_hash
from retinanet.data.transforms.sample import Sample
from retinanet.errors import InputError
from retinanet.structures import Unreadable

MAX_REPLACEMENTS = 10  # replacements to try for an image that cannot be read


class Partners:
    """Draw other images of the dataset, as stored, for one planned image.

    The draws depend only on the seed and the planned image. An image that cannot be read is recorded and replaced by
    the next one drawn.

    Args:
        read: reads the image at an index, or raises an InputError.
        num_images: number of images to draw from.
        planned: the image that needs partners; it is never its own partner.
        seed: seed of the run.
    """

    def __init__(self, read: Callable[[int], Sample], num_images: int, planned: PlannedImage, *, seed: int):
        self._read = read
        self._num_images = num_images
        self._planned = planned
        self._random = np.random.default_rng(stable_hash("partners", seed, *planned.key))
        self.unreadable: list[Unreadable] = []

    def draw(self) -> Sample | None:
        """Read another image, chosen at random; None if there is none, or if none of those tried can be read."""
        if self._num_images < 2:
            return None
        errors: list[tuple[int, InputError]] = []
        for _ in range(1 + MAX_REPLACEMENTS):
            index = int(self._random.integers(self._num_images - 1))
            index += index >= self._planned.index
            try:
                sample = self._read(index)
            except InputError as error:
                errors.append((index, error))
                continue
            self._record(errors, index)
            return sample
        self._record(errors, self._planned.index)
        return None

    def _record(self, errors: list[tuple[int, InputError]], used: int) -> None:
        self.unreadable += [Unreadable(bad, self._planned.epoch, used, str(error)) for bad, error in errors]


class SampleTransform(Protocol):
    """A transform of a sample: a function, or an object with parameters."""

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners, /) -> Sample:
        """Return a transformed sample without changing the given one.

        Args:
            planned: the image's epoch, resizing limits and padded shape.
            partners: other images, for transforms that combine several.
        """
        ...
