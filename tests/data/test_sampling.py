"""Weighted sampling: repeat factors, class-aware sampling, and their order."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.data.sampler import rank_by_aspect, train_batches
from retinanet.data.sampling import (
    _exchange_copies,
    class_aware_uses,
    draw_counts,
    repeat_factors,
    weighted_epoch_length,
    weighted_order,
)
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.padded_shapes import SHAPES, SIZES, USUAL

LANDSCAPE, PORTRAIT = (480, 640), (640, 480)
USES = st.floats(0, 3) | st.sampled_from([0.0, 1.0, 2.0, 7.5])


def dataset_with(*labels_of_images, crowds=()):
    """A dataset of images with an object of each label; those of the images in `crowds` are crowd regions."""
    records = [
        image_record(
            f"{n}.png", boxes=[(1, 1, 5, 4)] * len(labels), labels=labels, is_crowd=[n in crowds] * len(labels)
        )
        for n, labels in enumerate(labels_of_images)
    ]
    return dataset_of(records, class_names=("a", "b", "c", "d"))


def stream(sizes, uses, num_batches, *, batch_size=4, seed=0, start=0, shorter=(800,), padded_shapes=USUAL):
    batches = train_batches(
        sizes,
        batch_size=batch_size,
        shorter=shorter,
        padded_shapes=padded_shapes,
        seed=seed,
        uses=np.asarray(uses, dtype=float),
        start=start,
    )
    return list(itertools.islice(batches, num_batches))


# ---- number of uses of an image


def test_repeat_factors_by_hand():
    # Of 8 images, a is in 8, b in 2, c in 1 (twice), d in none but a crowd region. With threshold 1/2:
    # b has f = 1/4 and sqrt(2), c has f = 1/8 and 2; an image takes the largest of its classes.
    data = dataset_with([0], [0, 1], [0, 1, 2, 2], [0], [0], [0], [0], [0])
    assert np.allclose(repeat_factors(data, 0.5), [1, math.sqrt(2), 2, 1, 1, 1, 1, 1])
    assert np.array_equal(repeat_factors(data, 0.125), np.ones(8))  # f is not below the threshold
    with_crowd = dataset_with([0], [0], [0], [3], crowds=[3])
    assert np.array_equal(repeat_factors(with_crowd, 1.0), [*[math.sqrt(4 / 3)] * 3, 1])
    assert np.array_equal(repeat_factors(dataset_with([], []), 1.0), [1, 1])


def test_class_aware_uses_by_hand():
    # 6 images, of which 1 has no objects: 5 uses for 2 classes, 2.5 each. a is in 4 images, b in 2, one of them both.
    data = dataset_with([0], [0, 0], [0], [0, 1], [1], [])
    assert np.allclose(class_aware_uses(data), [0.625, 0.625, 0.625, 0.625 + 1.25, 1.25, 1])
    assert np.array_equal(class_aware_uses(dataset_with([2], [2], [])), [1, 1, 1])  # one class: as usual
    assert np.array_equal(class_aware_uses(dataset_with([], [])), [1, 1])
    # The last image has only a crowd region, so 2 classes share 4 uses: 2 for 3 images of a, 2 for one of b.
    with_crowd = dataset_with([0], [0], [0], [1], [1], crowds=[4])
    assert np.allclose(class_aware_uses(with_crowd), [2 / 3, 2 / 3, 2 / 3, 2, 1])


@settings(max_examples=50, deadline=None)
@given(images=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=12), threshold=st.floats(0.01, 1))
def test_factors_equal_a_direct_computation(images, threshold):
    data, count = dataset_with(*images), len(images)
    containing = Counter(label for labels in images for label in set(labels))
    factors = [
        max([1.0, *(math.sqrt(threshold / (containing[label] / count)) for label in labels)]) for labels in images
    ]
    assert np.allclose(repeat_factors(data, threshold), factors)
    with_objects = sum(map(bool, images))
    uses = [
        sum(with_objects / len(containing) / containing[label] for label in set(labels)) if labels else 1.0
        for labels in images
    ]
    assert np.allclose(class_aware_uses(data), uses)
    assert math.isclose(class_aware_uses(data).sum(), count)


@settings(max_examples=100, deadline=None)
@given(averages=st.lists(USES, min_size=1, max_size=12), seed=st.integers(0, 99))
def test_counts_are_averages_rounded_down_or_up_with_a_given_total(averages, seed):
    averages = np.array(averages) + 0.01
    total = math.ceil(averages.sum())
    averages *= total / averages.sum()
    counts = draw_counts(averages, total, np.random.default_rng(seed))
    assert counts.sum() == total
    assert (counts >= np.floor(averages - 1e-9)).all() and (counts <= np.ceil(averages + 1e-9)).all()


def test_mean_count_is_the_average():
    averages = np.array([0.2, 0.7, 1.0, 1.5, 2.6])  # sum 6
    random = np.random.default_rng(0)
    mean = np.mean([draw_counts(averages, 6, random) for _ in range(3000)], axis=0)
    assert np.abs(mean - averages).max() < 0.04  # standard deviation: at most 0.5 / sqrt(3000) = 0.009
    assert mean[2] == 1.0


@pytest.mark.parametrize(
    ("uses", "batch_size", "length"),
    [([1.0] * 8, 4, 8), ([1.0] * 9, 4, 12), ([1.5, 1.0, 1.2], 2, 4), ([1 / 3] * 12, 4, 4), ([0.1] * 30, 3, 3)],
)
def test_epoch_is_whole_batches(uses, batch_size, length):
    assert weighted_epoch_length(np.array(uses), batch_size) == length  # although 0.1 is not exact


# ---- the stream


@settings(max_examples=100, deadline=None)
@given(
    images=st.lists(st.tuples(SIZES, USES), min_size=1, max_size=20),
    setting=SHAPES,
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 99),
    start=st.integers(0, 12),
)
def test_stream_of_any_weights(images, setting, batch_size, seed, start):
    shorter, padded_shapes = setting
    sizes, uses = [size for size, _ in images], np.array([use for _, use in images]) + 0.01
    options = {"batch_size": batch_size, "seed": seed, "shorter": shorter, "padded_shapes": padded_shapes}
    per_epoch = weighted_epoch_length(uses, batch_size) // batch_size
    whole = stream(sizes, uses, 3 * per_epoch, **options)
    start = min(start, 3 * per_epoch)
    assert stream(sizes, uses, 3 * per_epoch - start, start=start, **options) == whole[start:]
    averages = uses * (per_epoch * batch_size / uses.sum())
    for epoch in range(3):
        batches = whole[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert {planned.epoch for batch in batches for planned in batch} == {epoch}
        used = Counter(planned.index for batch in batches for planned in batch)
        for index, average in enumerate(averages):
            assert math.floor(average - 1e-9) <= used[index] <= math.ceil(average + 1e-9)
            repeats = [planned.repeat for batch in batches for planned in batch if planned.index == index]
            assert repeats == list(range(used[index]))
        for batch in batches:
            assert len(batch) == batch_size
            assert len({planned.padded_shape for planned in batch}) == 1
            assert all(p.max_shape[0] <= p.padded_shape[0] and p.max_shape[1] <= p.padded_shape[1] for p in batch)
            for index, copies in Counter(planned.index for planned in batch).items():
                assert copies <= math.ceil(used[index] / per_epoch)  # more than one only if there are too few batches


@pytest.mark.parametrize("exchange", [True, False])
def test_no_avoidable_copy_in_any_small_dataset(exchange, monkeypatch):
    # Every division of up to 12 uses among images of two buckets, in batches of 2, 3 and 4.
    if not exchange:  # as if no image could be exchanged; images are then dealt to all batches
        monkeypatch.setattr("retinanet.data.sampling._exchange_copies", lambda batches, most: False)
    for batch_size, num_batches in ((2, 2), (2, 3), (3, 2), (3, 3), (2, 6), (4, 3)):
        length = batch_size * num_batches
        for counts in partitions(length, most=num_batches):
            for rare in range(min(3, len(counts)) + 1):
                ranks = np.zeros(len(counts), dtype=np.int16)
                ranks[:rare] = 1
                uses = np.array(counts, dtype=float)
                order = weighted_order(ranks, uses, batch_size=batch_size, seed=1, epoch=len(counts))
                assert np.array_equal(np.bincount(order, minlength=len(counts)), counts)
                for batch in order.reshape(-1, batch_size).tolist():
                    assert len(set(batch)) == batch_size, (counts, rare, order)


def partitions(total, *, most):
    """All ways to write a total as a sum of numbers up to `most`, the largest first."""
    if total == 0:
        yield []
    for first in range(min(most, total), 0, -1):
        yield from ([first, *rest] for rest in partitions(total - first, most=first))


def test_late_start_computes_no_earlier_epoch(monkeypatch):
    computed = []

    def recorded(*args, epoch, **kwargs):
        computed.append(epoch)
        return weighted_order(*args, epoch=epoch, **kwargs)

    monkeypatch.setattr("retinanet.data.sampler.weighted_order", recorded)
    stream([LANDSCAPE] * 10, [1.0] * 10, 3, start=30_000_000)  # 3 batches an epoch
    assert computed == [10_000_000]


def test_repeated_rare_portrait_is_spread_over_batches_of_landscapes():
    # 40 landscapes and two portraits are used once, another portrait 10 times, in 13 batches of 4: no batch has two
    # copies, so 10 batches have a portrait. Without exchanges, all portraits would be in 3 batches.
    sizes, uses = [LANDSCAPE] * 40 + [PORTRAIT] * 3, [1.0] * 40 + [10.0, 1.0, 1.0]
    batches = stream(sizes, uses, 13)
    with_portrait = [sum(planned.index == 40 for planned in batch) for batch in batches]
    assert sorted(with_portrait) == [0] * 3 + [1] * 10


def test_exchange_without_an_allowed_partner_is_refused():
    # Image 0 is in the first batch twice. The only batch without it contains just 1 and 2, as the first one does.
    batches = np.array([[0, 0, 1, 2], [1, 1, 2, 2], [0, 3, 4, 5]])
    assert not _exchange_copies(batches, np.ones(6, dtype=int))
    assert batches.tolist() == [[0, 0, 1, 2], [1, 1, 2, 2], [0, 3, 4, 5]]


def test_copies_of_a_wide_image_go_to_batches_of_similar_shape():
    # One wide image 5 times, 20 landscapes, 15 portraits, in 10 batches of 4: the copies go to the nearest batches.
    sizes, uses = [(320, 640)] + [LANDSCAPE] * 20 + [PORTRAIT] * 15, [5.0] + [1.0] * 35
    for epoch in range(5):
        batches = stream(sizes, uses, 10, start=10 * epoch)
        with_wide = [{planned.index > 20 for planned in batch} for batch in batches if 0 in {p.index for p in batch}]
        assert with_wide == [{False}] * 5


def test_images_of_a_bucket_share_batches():
    # 30 landscapes and 14 portraits of 1 or 2 uses each: at most one batch has both, as without weights.
    sizes, uses = [LANDSCAPE] * 30 + [PORTRAIT] * 14, [2.0] * 10 + [1.0] * 20 + [2.0] * 4 + [1.0] * 10
    for epoch in range(5):
        batches = stream(sizes, uses, 15, start=15 * epoch)  # 58 uses, rounded up to 60
        mixed = [batch for batch in batches if len({planned.max_shape for planned in batch}) > 1]
        assert len(mixed) <= 1


def test_classes_are_used_equally_often():
    data = dataset_with(*[[0]] * 36, *[[1]] * 3, [2])
    uses = class_aware_uses(data)  # 13.3 per class: 0.37, 4.4 and 13.3 for each of its 36, 3 and 1 images
    used = Counter(planned.index for batch in stream([LANDSCAPE] * 40, uses, 300) for planned in batch)
    of_class = [sum(used[n] for n in range(36)), sum(used[n] for n in range(36, 39)), used[39]]
    assert of_class == pytest.approx([400] * 3, abs=3 * 30**0.5)  # each epoch rounds by less than 1
    assert min(used[n] for n in range(36)) > 2  # 11 on average


def test_order_and_images_vary_with_epoch_and_seed():
    ranks, uses = np.zeros(20, dtype=np.int16), np.full(20, 0.5)
    orders = {
        tuple(weighted_order(ranks, uses, batch_size=5, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == len({frozenset(order) for order in orders}) == 4


def test_copies_in_an_epoch_share_batches_with_other_images():
    # Image 0 is used 3 times; over 200 epochs, every other image shares a batch with it.
    ranks = rank_by_aspect([USUAL.bucket(*LANDSCAPE)] * 12)
    together = Counter()
    for epoch in range(200):
        order = weighted_order(ranks, np.array([3.0] + [1.0] * 11), batch_size=4, seed=0, epoch=epoch)
        for batch in order.reshape(-1, 4).tolist():
            together.update(set(batch) - {0} if 0 in batch else ())
    # The 14 images are rounded up to 16 uses in 4 batches, 3 of which have image 0.
    assert len(together) == 11 and min(together.values()) > 60
