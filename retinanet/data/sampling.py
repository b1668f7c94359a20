"""Weighted sampling: how often each image is used in an epoch, and the order of such an epoch.

The average number of uses of an image is a real number. Each epoch uses it as often as this number says, rounded down
or up, such that the average over epochs is exact and every epoch has the same length.
"""

import math

import numpy as np

from retinanet.formats.dataset import Dataset


def repeat_factors(data: Dataset, threshold: float) -> np.ndarray:
    """Repeat factor of each image (Gupta et al. 2019, LVIS): (I,) float64, at least 1.

    A class that occurs in a share f of the images has the factor max(1, sqrt(threshold / f)), and an image has the
    largest factor of its classes. Crowd regions do not count as objects.
    """
    images, labels = _classes_of_images(data)
    per_class = np.bincount(labels, minlength=len(data.class_names))
    of_class = np.maximum(1.0, np.sqrt(threshold * len(data) / np.maximum(per_class, 1)))
    factors = np.ones(len(data))
    np.maximum.at(factors, images, of_class[labels])
    return factors


def class_aware_uses(data: Dataset) -> np.ndarray:
    """Average number of uses of each image, with which all classes are used equally often: (I,) float64, sum I.

    A class is chosen first, and then one of its images, so an image of several classes may be chosen for each of them.
    Images without objects are used once: they keep their share.
    """
    images, labels = _classes_of_images(data)
    per_class = np.bincount(labels, minlength=len(data.class_names))
    is_empty = np.bincount(images, minlength=len(data)) == 0
    uses = is_empty.astype(np.float64)
    num_classes = np.count_nonzero(per_class)
    np.add.at(uses, images, (len(data) - is_empty.sum()) / (num_classes * per_class[labels]))
    return uses


def _classes_of_images(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of an image and a class with an object in it, as two arrays of indices."""
    image_of_box = np.repeat(np.arange(len(data)), np.diff(data.box_start))
    pairs = np.stack([image_of_box, data.labels], axis=1)[~data.is_crowd]
    images, labels = np.unique(pairs, axis=0).T
    return images, labels


def weighted_epoch_length(uses: np.ndarray, batch_size: int) -> int:
    """Number of images in an epoch: the sum of all uses, rounded up to whole batches."""
    return batch_size * math.ceil(round(uses.sum() / batch_size, 9))  # a sum of 12.000000000001 is 12


def weighted_order(bucket_ranks: np.ndarray, uses: np.ndarray, *, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Order of the images in an epoch, of `weighted_epoch_length`, in whole batches.

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
    """Round averages (I,) down or up at random to counts (I,) with the given total, keeping each average.

    Systematic sampling: the fractions are laid end to end in a random order, and every image in whose fraction one of
    the points u, u + 1, u + 2, ... lies is rounded up, with a random u from 0 to 1.
    """
    counts = np.floor(averages).astype(np.int64)
    fractions = averages - counts
    order = random.permutation(len(averages))
    ends = np.cumsum(fractions[order])
    ends[-1] = total - counts.sum()  # a whole number, but for rounding errors
    # A rounding error may let `ends` pass its last value; no count becomes negative.
    points = np.floor(np.minimum(ends, ends[-1]) + random.random()).astype(np.int64)
    counts[order] += np.diff(points, prepend=0)
    return counts


def _separate_copies(images: np.ndarray, bucket_ranks: np.ndarray, counts: np.ndarray, batch_size: int) -> np.ndarray:
    """Arrange images (L,), sorted by bucket and with copies of an image adjacent, into batches (M, batch_size).

    The images of a bucket are dealt to its batches like cards, so copies are in different batches if there are enough.
    If not, some are exchanged for images of the nearest other batches, which are of the most similar shapes.
    """
    length, num_batches = len(images), len(images) // batch_size
    slots = np.empty(length, dtype=np.int64)  # slots[n]: the place of the n-th image in the batches laid end to end
    batch_of_slot = np.arange(length) // batch_size
    starts = np.flatnonzero(np.diff(bucket_ranks[images], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], length], strict=True):
        batch = batch_of_slot[start:stop]
        _, first = np.unique(batch, return_index=True)
        dealing_round = np.arange(stop - start) - first[batch - batch[0]]  # place among the bucket's slots of a batch
        slots[start:stop] = start + np.lexsort([batch, dealing_round])
    arranged = np.empty_like(images)
    arranged[slots] = images
    batches = arranged.reshape(num_batches, batch_size)
    if not _exchange_copies(batches, -(-counts // num_batches)):
        batches = images.reshape(batch_size, num_batches).T  # dealt to all batches, whatever their bucket
    return batches


def _exchange_copies(batches: np.ndarray, most: np.ndarray) -> bool:
    """Exchange images between batches, in place, until none is in a batch more often than `most` allows.

    Returns: whether this succeeded. Each exchange removes an excess copy and adds none.
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
