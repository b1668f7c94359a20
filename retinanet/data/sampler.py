"""Sampling: choose the images of each batch and their order, as a pure function of sizes, seed and position."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from retinanet.data.padded_shapes import AspectBucket, PaddedShapes


class PlannedImage(NamedTuple):
    """One image of a batch, with its resizing limits and padded shape."""

    index: int  # into the dataset
    epoch: int
    shorter: int  # target length of the shorter side, pixels
    longer: int  # upper bound of the longer side, pixels
    padded_shape: tuple[int, int]  # padded height and width of the batch


def train_batches(
    sizes: Sequence[tuple[int, int]], *, batch_size: int, shorter: Sequence[int], padded_shapes: PaddedShapes, seed: int
) -> Iterator[list[PlannedImage]]:
    """Yield full batches indefinitely.

    Each epoch is a permutation of the dataset. An image waits in its aspect-ratio bucket until the bucket
    contains a full batch. No batch is short, and each image is used exactly once per epoch, though sometimes a little
    later than in the permutation.

    Args:
        sizes: (height, width) of each image, at least one.
        shorter: candidates for the shorter side; one is drawn per batch.
        seed: together with the position in the stream, determines every batch.
    """
    assert len(sizes) > 0
    buckets = [padded_shapes.bucket(height, width) for height, width in sizes]
    waiting: dict[AspectBucket, list[tuple[int, int]]] = {bucket: [] for bucket in buckets}
    number = 0
    for epoch in itertools.count():
        for index in np.random.default_rng([seed, epoch]).permutation(len(sizes)).tolist():
            members = waiting[buckets[index]]
            members.append((index, epoch))
            if len(members) < batch_size:
                continue
            side = shorter[stable_hash("shorter", seed, number) % len(shorter)]
            padded_shape = padded_shapes.padded_shape(buckets[index], side)
            yield [PlannedImage(index, epoch, side, padded_shapes.longer, padded_shape) for index, epoch in members]
            members.clear()
            number += 1


def eval_batches(
    sizes: Sequence[tuple[int, int]], *, batch_size: int, shorter: int, padded_shapes: PaddedShapes
) -> list[list[PlannedImage]]:
    """Batch every image once, by aspect-ratio bucket and in dataset order; the last batch of a bucket may be short."""
    by_bucket: dict[AspectBucket, list[int]] = {}
    for index, (height, width) in enumerate(sizes):
        by_bucket.setdefault(padded_shapes.bucket(height, width), []).append(index)
    batches = []
    for bucket, members in sorted(by_bucket.items()):
        padded_shape = padded_shapes.padded_shape(bucket, shorter)
        for start in range(0, len(members), batch_size):
            chosen = members[start : start + batch_size]
            batches.append([PlannedImage(index, 0, shorter, padded_shapes.longer, padded_shape) for index in chosen])
    return batches


def stable_hash(*key: str | int) -> int:
    """Hash a key to 32 bits. Unlike Python's `hash`, the result is the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest(), "little")
