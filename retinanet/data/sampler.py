"""Sampling: choose the images of each batch and their order, as a pure function of sizes, seed and position.

Training takes its batches from an endless stream of images in which epochs follow each other. Batch n contains the
images at positions [n * batch_size, (n + 1) * batch_size). Every batch is therefore full, every image is used exactly
once per epoch, and the number of steps in a run is epochs * images / batch_size, rounded up. If the batch size does not
divide the number of images, an epoch begins and ends within a batch, which it shares with its neighbours. The
alternatives are worse: a short last batch takes a step of full length along a noisier gradient and may leave a process
without images, and dropping it skips images.

The order of an epoch is arranged so that batches need little padding (see `epoch_order`). It depends only on the seed
and the epoch, so a run can resume anywhere without replaying earlier epochs.

With weighted sampling, some images are used more often than others, and epochs are whole batches: see `sampling.py`.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from retinanet.data.padded_shapes import AspectBucket, PaddedShapes
from retinanet.data.sampling import weighted_epoch_length, weighted_order


class PlannedImage(NamedTuple):
    """One image of a batch, with its resizing limits and padded shape."""

    index: int  # into the dataset
    epoch: int
    shorter: int  # target length of the shorter side, pixels
    longer: int  # upper bound of the longer side, pixels
    max_shape: tuple[int, int]  # upper bounds of height and width: the padded shape of its own aspect-ratio bucket
    padded_shape: tuple[int, int]  # padded (height, width) of the batch, which may contain images of other buckets
    repeat: int = 0  # earlier uses of the image in the same epoch

    @property
    def key(self) -> tuple[int, ...]:
        """The values that, together with the run's seed, determine the random choices for this image."""
        return (self.epoch, self.index, self.repeat) if self.repeat else (self.epoch, self.index)


def train_batches(
    sizes: Sequence[tuple[int, int]],
    *,
    batch_size: int,
    shorter: Sequence[int],
    padded_shapes: PaddedShapes,
    seed: int,
    uses: np.ndarray | None = None,
    start: int = 0,
) -> Iterator[list[PlannedImage]]:
    """Yield full batches indefinitely, each image once per epoch, or as often as `uses` specifies.

    No image occurs twice in a batch unless the batch is larger than the dataset. In that case every image occurs in
    each batch, and the numbers of occurrences differ by at most one. With `uses`, images that are used more often than
    an epoch has batches also repeat. A batch has the smallest padded shape that fits the aspect-ratio buckets of its
    images.

    Args:
        sizes: (height, width) of each image, at least one.
        shorter: candidates for the shorter side; one is drawn per batch.
        seed: together with the position in the stream, determines every batch.
        uses: (I,) average number of uses of each image per epoch; None: once.
        start: number of the first batch to yield.
    """
    assert len(sizes) > 0
    buckets = [padded_shapes.bucket(height, width) for height, width in sizes]
    bucket_ranks = rank_by_aspect(buckets)
    length = epoch_length(len(sizes), uses, batch_size)

    def order_of(epoch: int) -> np.ndarray:
        if uses is None:
            return epoch_order(bucket_ranks, batch_size=batch_size, seed=seed, epoch=epoch)
        return weighted_order(bucket_ranks, uses, batch_size=batch_size, seed=seed, epoch=epoch)

    epoch, skipped = divmod(start * batch_size, length)
    stream = itertools.islice(_image_stream(order_of, epoch), skipped, None)
    for number in itertools.count(start):
        images = list(itertools.islice(stream, batch_size))
        side = shorter[stable_hash("shorter", seed, number) % len(shorter)]
        shapes = {
            bucket: padded_shapes.padded_shape(bucket, side) for bucket in {buckets[index] for index, _, _ in images}
        }
        padded_shape = max(height for height, _ in shapes.values()), max(width for _, width in shapes.values())
        yield [
            PlannedImage(index, epoch, side, padded_shapes.longer, shapes[buckets[index]], padded_shape, repeat)
            for index, epoch, repeat in images
        ]


def epoch_length(num_images: int, uses: np.ndarray | None, batch_size: int) -> int:
    """Return the number of images in an epoch; `uses` is as in `train_batches`."""
    return num_images if uses is None else weighted_epoch_length(uses, batch_size)


def _image_stream(order_of: Callable[[int], np.ndarray], epoch: int) -> Iterator[tuple[int, int, int]]:
    """Yield (index, epoch, repeat) of every image, starting at the beginning of an epoch."""
    for number in itertools.count(epoch):
        used: Counter[int] = Counter()
        for index in order_of(number).tolist():
            yield index, number, used[index]
            used[index] += 1


def rank_by_aspect(buckets: Sequence[AspectBucket]) -> np.ndarray:
    """Rank the occurring buckets from the widest to the tallest, and return the rank of each image's bucket."""
    tallness = [bucket.position + 1 if not bucket.is_landscape else -bucket.position for bucket in buckets]
    return np.unique(tallness, return_inverse=True)[1].astype(np.int16)


def epoch_order(bucket_ranks: np.ndarray, *, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Order the images (I,) of an epoch: the rest of an open batch, whole batches, the start of the next batch.

    For the whole batches, images are sorted by aspect-ratio bucket, from the widest to the tallest, and shuffled within
    each bucket. They are then cut into batches, and the batches are shuffled. The last images of a bucket thus share a
    batch with the first of the next bucket, which adds little padding. Batches shared by two epochs come from the most
    common bucket where possible, and their images do not repeat: see `_last_images`.

    Args:
        bucket_ranks: (I,) int16, from `rank_by_aspect`.
    """
    num_images = len(bucket_ranks)
    num_first, _ = _shared_counts(num_images, batch_size, epoch)
    last = _last_images(bucket_ranks, batch_size, seed, epoch)
    distance = _distance_to_most_common(bucket_ranks)
    if num_first:  # prefer images that are not yet in the open batch
        distance[_last_images(bucket_ranks, batch_size, seed, epoch - 1)] = np.iinfo(distance.dtype).max

    random = np.random.default_rng([seed, epoch])
    order = random.permutation(num_images)
    is_left = np.ones(num_images, dtype=bool)
    is_left[last] = False
    order = order[is_left[order]]
    first = _sorted_by(distance, order)[:num_first]
    is_left[first] = False
    order = order[is_left[order]]
    batches = _sorted_by(bucket_ranks, order).reshape(-1, batch_size)
    return np.concatenate([first, random.permutation(batches).ravel(), last])


def _shared_counts(num_images: int, batch_size: int, epoch: int) -> tuple[int, int]:
    """Count an epoch's images in the batch that is open when it begins, and in the one open when it ends."""
    first = min(num_images, -epoch * num_images % batch_size)
    return first, (num_images - first) % batch_size


def _last_images(bucket_ranks: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Choose the images that an epoch leaves for the batch it shares with the next, independently of the next epoch.

    The next epoch chooses others for that batch. With at least 2 * batch_size images, enough remain regardless of what
    the two epochs leave. With fewer, every epoch leaves the start of the same permutation, so the images that
    neighbouring epochs leave overlap as much as possible, and enough others remain. If there are fewer images than a
    batch contains, each later epoch begins with all images that it does not leave itself.
    """
    num_images = len(bucket_ranks)
    _, num_last = _shared_counts(num_images, batch_size, epoch)
    order = np.random.default_rng([seed, epoch if num_images >= 2 * batch_size else 0]).permutation(num_images)
    return _sorted_by(_distance_to_most_common(bucket_ranks), order)[:num_last]


def _distance_to_most_common(bucket_ranks: np.ndarray) -> np.ndarray:
    """Compute the distance in rank (I,) of each image's bucket to the most common bucket."""
    return np.abs(bucket_ranks - np.bincount(bucket_ranks).argmax().astype(bucket_ranks.dtype))


def _sorted_by(key: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Sort images by key; the sort is stable."""
    return images[np.argsort(key[images], kind="stable")]


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
            batches.append(
                [PlannedImage(index, 0, shorter, padded_shapes.longer, padded_shape, padded_shape) for index in chosen]
            )
    return batches


def stable_hash(*key: str | int) -> int:
    """Hash a key to 32 bits. Unlike Python's `hash`, the result is the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest(), "little")
