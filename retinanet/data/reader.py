"""Read one image with its ground truth, transform it, and replace it if it cannot be read."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from retinanet.data.sampler import PlannedImage, stable_hash
from retinanet.data.transforms.partners import MAX_REPLACEMENTS, Partners, SampleTransform
from retinanet.data.transforms.sample import Sample, shrink_to_fit
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset, ImageRecord
from retinanet.formats.images.opened import ImageHeader
from retinanet.formats.images.reader import open_bands
from retinanet.formats.images.settings import ImageSettings
from retinanet.structures import Unreadable


class PreparedSample(NamedTuple):
    """A transformed sample, ready to be collated."""

    planned: PlannedImage
    sample: Sample
    original_size: tuple[int, int]  # height and width before the transforms
    unreadable: tuple[Unreadable, ...] = ()  # unreadable images that this sample replaces


def annotated_as_displayed(record: ImageRecord, header: ImageHeader) -> bool:
    """Return whether an image was annotated as displayed, not as stored, judging by its annotated size.

    Raises:
        InputError: the annotated size matches neither the displayed nor the stored size.
    """
    annotated = (record.height, record.width)
    if annotated == (header.height, header.width):
        return True
    if header.orientation >= 5 and annotated == (header.width, header.height):
        return False
    raise InputError(
        f"{record.path}: is {header.width}x{header.height}, but annotated as {record.width}x{record.height}; its boxes "
        "would be misplaced: correct the annotations, or restore the image that was annotated"
    )


class SampleReader:
    """Read and transform single images. The result depends only on the seed and the planned image.

    Args:
        dataset: the dataset that planned images index into.
        transforms: the transforms to apply, in order.
        seed: seed for random transforms and for the choice of replacements.
        settings: how image files become pixels.
    """

    def __init__(
        self,
        dataset: Dataset,
        transforms: Sequence[SampleTransform],
        *,
        seed: int,
        settings: ImageSettings,
    ):
        self.dataset = dataset
        self.transforms = transforms
        self.seed = seed
        self.settings = settings

    def __call__(self, planned: PlannedImage) -> PreparedSample:
        """Read and transform a planned image.

        Raises:
            InputError: the image cannot be read.
        """
        return self.transform(self.read(planned.index), planned)

    def read_or_replace(self, planned: PlannedImage) -> PreparedSample:
        """Read and transform a planned image, or a replacement if it cannot be read.

        Raises:
            InputError: neither the image nor a replacement can be read.
        """
        try:
            return self(planned)
        except InputError as error:
            return self.replace(planned, error)

    def replace(self, planned: PlannedImage, error: InputError) -> PreparedSample:
        """Prepare a replacement for a planned image that failed to be read with `error`.

        Returns:
            The replacement, with its own index in `planned`.

        Raises:
            InputError: there is no other image, or none of the replacements tried can be read.
        """
        errors = [(planned.index, error)]
        for index in itertools.islice(self._replacements(planned), MAX_REPLACEMENTS):
            try:
                # Seeded by the planned image, so it differs from the replacement's regular use in this epoch.
                prepared = self.transform(self.read(index), planned)
            except InputError as another:
                errors.append((index, another))
                continue
            unreadable = [Unreadable(bad, planned.epoch, index, str(reason)) for bad, reason in errors]
            return prepared._replace(
                planned=planned._replace(index=index), unreadable=(*unreadable, *prepared.unreadable)
            )
        if len(errors) == 1:
            raise InputError(f"{error} (and the dataset has no other image as a replacement)")
        raise InputError(
            f"{error} (and none of the {len(errors) - 1} replacements tried can be read; last error: {errors[-1][1]})"
        )

    def _replacements(self, planned: PlannedImage) -> Iterator[int]:
        """Yield indices of other images, in a random order that depends only on the planned image."""
        random = np.random.default_rng(stable_hash("replacement", self.seed, *planned.key))
        return (index for index in random.permutation(len(self.dataset)).tolist() if index != planned.index)

    def transform(self, sample: Sample, planned: PlannedImage) -> PreparedSample:
        """Apply the transforms, seeded by the planned image; torch's global generator is left unchanged.

        The result is shrunk to the planned image's `max_shape` if the transforms exceed it.
        """
        original_size = sample.size
        partners = Partners(self.read, len(self.dataset), planned, seed=self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stable_hash(self.seed, *planned.key))
            for transform in self.transforms:
                sample = transform(sample, planned, partners)
        sample = shrink_to_fit(sample, planned.max_shape)
        return PreparedSample(planned, sample, original_size, tuple(partners.unreadable))

    def read(self, index: int) -> Sample:
        """Read an image in the orientation in which it was annotated.

        Some annotation tools apply the EXIF orientation and others do not, so the annotated size decides whether the
        image is rotated or its pixels are used as stored.

        Raises:
            InputError: the image cannot be read, or its size differs from the annotated size.
        """
        record = self.dataset.image(index)
        if self.dataset.source is not None:
            # Transforms may change the image in place, but the source may keep its images.
            image = self.dataset.read_image(index, channels=self.settings.channels).clone()
            return _sample(image, record)
        with open_bands(record.path, self.settings) as opened:
            is_shown = annotated_as_displayed(record, opened.header)
            image = opened.decode(apply_orientation=is_shown)
        return _sample(image, record)


def _sample(image: torch.Tensor, record: ImageRecord) -> Sample:
    return Sample(
        image=image,
        boxes=torch.from_numpy(record.boxes),
        labels=torch.from_numpy(record.labels),
        is_crowd=torch.from_numpy(record.is_crowd),
        is_complete=None if record.is_complete is None else torch.from_numpy(record.is_complete),
    )
