"""Weighted sampling: the number of uses of each image in an epoch, and the order of such an epoch.

The average number of uses of an image is a real number. In each epoch it is rounded down or up, so that the average
over epochs is exact and every epoch has the same length.
"""

import math

import numpy as np

from retinanet.formats.dataset import Dataset


def repeat_factors(data: Dataset, threshold: float) -> np.ndarray:
    """Compute the repeat factor of each image (Gupta et al. 2019, LVIS): (I,) float64, at least 1.

    A class that occurs in a fraction f of the images has the factor max(1, sqrt(threshold / f)), and an image has the
    largest factor of its classes. Crowd regions do not count as objects.
    """
    images, labels = _classes_of_images(data)
    per_class = np.bincount(labels, minlength=len(data.class_names))
    of_class = np.maximum(1.0, np.sqrt(threshold * len(data) / np.maximum(per_class, 1)))
    factors = np.ones(len(data))
    np.maximum.at(factors, images, of_class[labels])
    return factors


def class_aware_uses(data: Dataset) -> np.ndarray:
    """Compute the average number of uses per image that balances the classes: (I,) float64 with sum I.

    This corresponds to choosing a class first, and then one of its images, so an image with several classes can be
    chosen for each of them. Images without objects are used once.
    """
    images, labels = _classes_of_images(data)
    per_class = np.bincount(labels, minlength=len(data.class_names))
    is_empty = np.bincount(images, minlength=len(data)) == 0
    uses = is_empty.astype(np.float64)
    num_classes = np.count_nonzero(per_class)
    np.add.at(uses, images, (len(data) - is_empty.sum()) / (num_classes * per_class[labels]))
    return uses


def _classes_of_images(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return all (image, class) pairs with an object, as two arrays of indices."""
    image_of_box = np.repeat(np.arange(len(data)), np.diff(data.box_start))
    pairs = np.stack([image_of_box, data.labels], axis=1)[~data.is_crowd]
    images, labels = np.unique(pairs, axis=0).T
    return images, labels


def weighted_epoch_length(uses: np.ndarray, batch_size: int) -> int:
    """Return the number of images in an epoch: the sum of all uses, rounded up to whole batches."""
    return batch_size * math.ceil(round(uses.sum() / batch_size, 9))  # a sum of 12.000000000001 is 12


def weighted_order(bucket_ranks: np.ndarray, uses: np.ndarray, *, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Order the images of an epoch: `weighted_epoch_length` images in whole batches.

    As in `epoch_order`, images are sorted by aspect-ratio bucket, and batches are shuffled. No image occurs twice in a
    batch, unless it is used more often than there are batches; then it occurs in each about equally often.

    Args:
        bucket_ranks: (I,) int16, from `rank_by_aspect`.
        uses: (I,) average number of uses of each image per epoch.
    """
    random = np.random.default_rng([seed, epoch, 1])
    length = weighted_epoch_length(uses, batch_size)
    counts = draw_counts(uses * (length / uses.sum()), length, random)
    order = random.permutation(len(uses))
    order = order[np.argsort(bucket_ranks[order], kind="stable")]
    batches = _separate_copies(np.repeat(order, counts[order]), bucket_ranks, counts, batch_size)
    return random.permutation(batches).ravel()


def draw_counts(averages: np.ndarray, total: int, random: np.random.Generator) -> np.ndarray:
    """Round averages (I,) randomly to counts (I,) with the given total; the expected counts are the averages.

    This is systematic sampling: the fractional parts are placed end to end in random order, and an image is rounded up
    if its interval contains one of the points u, u + 1, u + 2, ..., with a random u from 0 to 1.
    """
    counts = np.floor(averages).astype(np.int64)
    fractions = averages - counts
    order = random.permutation(len(averages))
    ends = np.cumsum(fractions[order])
    ends[-1] = total - counts.sum()  # a whole number except for rounding errors
    # Rounding errors may make `ends` exceed its last value; no count becomes negative.
    points = np.floor(np.minimum(ends, ends[-1]) + random.random()).astype(np.int64)
    counts[order] += np.diff(points, prepend=0)
    return counts


def _separate_copies(images: np.ndarray, bucket_ranks: np.ndarray, counts: np.ndarray, batch_size: int) -> np.ndarray:
    """Arrange images (L,), sorted by bucket and with copies of an image adjacent, into batches (M, batch_size).

    The images of a bucket are dealt to its batches in turn, so copies are in different batches if there are enough.
    Otherwise some are exchanged for images of the nearest other batches, which have the most similar shapes.
    """
    length, num_batches = len(images), len(images) // batch_size
    slots = np.empty(length, dtype=np.int64)  # slots[n]: position of the n-th image in the concatenated batches
    batch_of_slot = np.arange(length) // batch_size
    starts = np.flatnonzero(np.diff(bucket_ranks[images], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], length], strict=True):
        batch = batch_of_slot[start:stop]
        _, first = np.unique(batch, return_index=True)
        dealing_round = np.arange(stop - start) - first[batch - batch[0]]  # index among the bucket's slots in a batch
        slots[start:stop] = start + np.lexsort([batch, dealing_round])
    arranged = np.empty_like(images)
    arranged[slots] = images
    batches = arranged.reshape(num_batches, batch_size)
    if not _exchange_copies(batches, -(-counts // num_batches)):
        batches = images.reshape(batch_size, num_batches).T  # dealt to all batches, regardless of bucket
    return batches


def _exchange_copies(batches: np.ndarray, most: np.ndarray) -> bool:
    """Exchange images between batches, in place, until none is in a batch more often than `most` allows.

    Returns: whether all excess copies could be removed. Each exchange removes one and adds none.
    """
    num_batches, num_images = len(batches), len(most)
    found, copies = np.unique(np.arange(num_batches)[:, None] * num_images + batches, return_counts=True)
    for key in found[copies > most[found % num_images]].tolist():
        source, image = divmod(key, num_images)
        while (batches[source] == image).sum() > most[image]:
            if not _exchange_one(batches, most, source, image):
                return False
    return True


def _exchange_one(batches: np.ndarray, most: np.ndarray, source: int, image: int) -> bool:
    """Exchange one copy of an image in batch `source` for an image of the nearest batch where this is allowed."""
    for target in np.argsort(np.abs(np.arange(len(batches)) - source), kind="stable").tolist():
        if (batches[target] == image).sum() >= most[image]:
            continue
        others = batches[target]
        is_allowed = (batches[source][:, None] == others).sum(axis=0) < most[others]
        if is_allowed.any():
            place, own = int(np.argmax(is_allowed)), int(np.argmax(batches[source] == image))
            batches[source, own], batches[target, place] = batches[target, place], batches[source, own]
            return True
    return False
