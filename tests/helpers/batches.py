"""Read batches of images, and compare them."""

from collections.abc import Iterable, Sequence

import torch

from retinanet.data.reader import SampleReader
from retinanet.data.transforms.partners import SampleTransform
from retinanet.formats.dataset import ImageRecord
from retinanet.formats.images.settings import ImageSettings
from retinanet.structures import Batch
from tests.helpers.datasets import dataset_of

MAX_PIXELS = 1_000_000


def reader_of(*records: ImageRecord, transforms: Sequence[SampleTransform] = (), seed: int = 0) -> SampleReader:
    """A reader for some images."""
    return SampleReader(dataset_of(records), transforms, seed=seed, settings=ImageSettings(max_pixels=MAX_PIXELS))


def assert_same_batches(batches: Iterable[Batch], others: Iterable[Batch]) -> None:
    """Assert that two non-empty streams of batches are equal bit for bit."""
    batches, others = list(batches), list(others)
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert batch.image_indices == other.image_indices and batch.unreadable == other.unreadable
        for name in ("images", "image_sizes", "original_sizes"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), name
        assert batch.targets.has_crowd == other.targets.has_crowd
        for tensor, same in zip(batch.tensors(), other.tensors(), strict=True):
            assert torch.equal(tensor, same)
