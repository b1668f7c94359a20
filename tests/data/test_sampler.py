import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.data.padded_shapes import resized
from retinanet.data.sampler import epoch_order, eval_batches, rank_by_aspect, stable_hash, train_batches
from tests.helpers.padded_shapes import SHAPES, SIZES, USUAL

LANDSCAPE, PORTRAIT, WIDE, SQUARE = (480, 640), (640, 480), (320, 640), (500, 500)


def stream(sizes, num_batches, *, batch_size=4, shorter=(800,), padded_shapes=USUAL, seed=0, start=0):
    batches = train_batches(
        sizes, batch_size=batch_size, shorter=shorter, padded_shapes=padded_shapes, seed=seed, start=start
    )
    return list(itertools.islice(batches, num_batches))


def pad(sizes, indices, padded_shapes, side):
    """Smallest shape that contains the padded shapes of some images."""
    shapes = [padded_shapes.padded_shape(padded_shapes.bucket(*sizes[index]), side) for index in indices]
    return max(height for height, _ in shapes), max(width for _, width in shapes)


# ---- properties for any sizes, batch size, seed and epoch


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=40),
    setting=SHAPES,
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_image_is_used_once_per_epoch_in_full_batches_that_fit_it(sizes, setting, batch_size, seed):
    shorter, padded_shapes = setting
    num_batches = 5 * (len(sizes) // batch_size + 1)
    batches = stream(sizes, num_batches, batch_size=batch_size, shorter=shorter, padded_shapes=padded_shapes, seed=seed)
    images = [planned for batch in batches for planned in batch]
    assert [planned.epoch for planned in images] == [i // len(sizes) for i in range(num_batches * batch_size)]
    for _, of_epoch in itertools.groupby(images[: len(images) // len(sizes) * len(sizes)], lambda image: image.epoch):
        assert sorted(planned.index for planned in of_epoch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == batch_size
        (side,) = {planned.shorter for planned in batch}
        assert side in shorter
        (padded_shape,) = {planned.padded_shape for planned in batch}
        assert padded_shape == pad(sizes, [planned.index for planned in batch], padded_shapes, side)
        for planned in batch:
            assert planned.max_shape == pad(sizes, [planned.index], padded_shapes, side)
            height, width = resized(*sizes[planned.index], planned.shorter, planned.longer)
            assert height <= planned.max_shape[0] and width <= planned.max_shape[1]
        # Only batches larger than the dataset repeat images, and all images about equally often.
        repeats = Counter(planned.index for planned in batch)
        times = batch_size / len(sizes)
        assert max(repeats.values()) <= math.ceil(times)
        assert times < 1 or min(repeats[index] for index in range(len(sizes))) >= math.floor(times)


def test_every_small_dataset_and_batch_size():
    # Exhaustive: epochs share batches in every possible way, with one, two and three buckets.
    for num_images, batch_size, rare in itertools.product(range(1, 12), range(1, 14), range(3)):
        sizes = [LANDSCAPE] * num_images
        sizes[:rare] = [PORTRAIT, WIDE][:rare]
        sizes = sizes[:num_images]
        images = [
            planned.index
            for batch in stream(sizes, 3 * num_images, batch_size=batch_size)  # every position of an epoch in a batch
            for planned in batch
        ]
        for first in range(0, len(images) - num_images + 1, num_images):
            assert sorted(images[first : first + num_images]) == list(range(num_images))
        for first in range(0, len(images), batch_size):
            repeats = Counter(images[first : first + batch_size])
            assert max(repeats.values()) <= math.ceil(batch_size / num_images)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=15),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 99),
    start=st.integers(0, 40),
)
def test_stream_is_a_pure_function_of_its_arguments_and_starts_anywhere(sizes, batch_size, seed, start):
    options = {"batch_size": batch_size, "shorter": (640, 672, 800), "seed": seed}
    whole = stream(sizes, 45, **options)
    assert stream(sizes, 45 - start, start=start, **options) == whole[start:]
    assert stream(sizes, start, **options) == whole[:start]


def test_late_start_computes_no_earlier_epoch(monkeypatch):
    computed = []

    def recorded(*args, epoch, **kwargs):
        computed.append(epoch)
        return epoch_order(*args, epoch=epoch, **kwargs)

    monkeypatch.setattr("retinanet.data.sampler.epoch_order", recorded)
    stream([LANDSCAPE] * 10, 2, batch_size=4, start=10_000_000)  # position 40,000,000: two batches end in the epoch
    assert computed == [4_000_000]


# ---- hand-worked examples


def test_whole_batches_are_of_one_bucket_and_neighbours_share_the_rest():
    # 8 wide, 6 landscape, 4 square and 6 portrait images, sorted and cut into batches of 4:
    # WWWW WWWW LLLL LLSS SSPP PPPP, in each epoch.
    sizes = [WIDE] * 8 + [LANDSCAPE] * 6 + [SQUARE] * 4 + [PORTRAIT] * 6
    for number in range(3):
        batches = stream(sizes, 6, start=6 * number)
        kinds = Counter("".join(sorted(kind_of(sizes[planned.index]) for planned in batch)) for batch in batches)
        assert kinds == {"WWWW": 2, "LLLL": 1, "LLSS": 1, "PPSS": 1, "PPPP": 1}
        assert {planned.epoch for batch in batches for planned in batch} == {number}
        # Shorter side 800: landscape up to 800 x 1088 (1.34), wide up to 800 x 1344, square 800 x 800.
        shapes = Counter(batch[0].padded_shape for batch in batches)
        assert shapes == {(800, 1344): 2, (800, 1088): 2, (1088, 800): 2}


def kind_of(size):
    return {WIDE: "W", LANDSCAPE: "L", SQUARE: "S", PORTRAIT: "P"}[size]


def test_only_landscape_and_portrait_images_need_a_shape_of_their_own():
    # 3 landscape and 1 portrait image in one batch: as high as the portrait, as wide as the landscape image.
    (batch,) = stream([LANDSCAPE] * 3 + [PORTRAIT], 1)
    assert {planned.padded_shape for planned in batch} == {(1088, 1088)}
    assert Counter(planned.max_shape for planned in batch) == {(800, 1088): 3, (1088, 800): 1}


def test_batches_that_two_epochs_share_come_from_the_most_common_bucket():
    # 20 images in batches of 6: epochs share batches of 2 + 4 and 4 + 2 images. Of 17 landscape images there are
    # always enough; the portraits and the wide image are in batches of their own epoch.
    sizes = [LANDSCAPE] * 17 + [PORTRAIT] * 2 + [WIDE]
    shared = [batch for batch in stream(sizes, 60, batch_size=6) if len({planned.epoch for planned in batch}) > 1]
    assert len(shared) == 12  # of 18 epochs; every third one begins with a new batch
    assert {planned.index < 17 for batch in shared for planned in batch} == {True}
    assert Counter(Counter(p.epoch for p in batch).most_common()[0][1] for batch in shared) == {4: 12}


def test_rare_portrait_is_used_in_every_epoch():
    sizes = [LANDSCAPE] * 20 + [PORTRAIT]
    images = [planned for batch in stream(sizes, 16, batch_size=16) for planned in batch]
    epochs = len(images) // 21
    assert sorted(p.epoch for p in images if p.index == 20 and p.epoch < epochs) == list(range(epochs))


def test_dataset_smaller_than_the_batch():
    # 3 images in a batch of 8: two are used three times, one twice. 8 batches are 64 = 21 * 3 + 1 images.
    batches = stream([LANDSCAPE, PORTRAIT, LANDSCAPE], 8, batch_size=8)
    for batch in batches:
        assert sorted(Counter(planned.index for planned in batch).values()) == [2, 3, 3]
    assert Counter(planned.index for batch in batches for planned in batch)[0] in (21, 22)


# ---- randomness


def test_seed_and_epoch_change_the_order():
    orders = {
        tuple(planned.index for planned in stream([LANDSCAPE] * 30, epoch + 1, batch_size=30, seed=seed)[epoch])
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@pytest.mark.parametrize("num_images", [40, 43, 64])
def test_every_image_and_every_shape_may_come_at_any_position(num_images):
    # In 300 epochs, each image should be in each batch about equally often, and so should the portraits.
    sizes = [LANDSCAPE] * (num_images - 12) + [PORTRAIT] * 12
    ranks = rank_by_aspect([USUAL.bucket(*size) for size in sizes])
    orders = np.stack([epoch_order(ranks, batch_size=8, seed=3, epoch=epoch) for epoch in range(300)])
    place = np.argsort(orders, axis=1)  # (epoch, image)
    # The position of an image is uniform in 0..N-1, with standard deviation N / sqrt(12); the mean of 300 epochs has
    # 0.0167 N. A portrait is never in a shared batch, which spans at most 8 of the positions at each end.
    mean = place.mean(axis=0) / num_images
    assert np.abs(mean - 0.5).max() < 0.08
    assert (place.std(axis=0) > 0.2 * num_images).all()


def test_images_of_a_bucket_meet_at_random():
    # 24 images in batches of 8: the batch of image 0 has 7 of the other 23, so image 1 is in it in 183 of 600 epochs on
    # average, with a standard deviation of 11.
    ranks = np.zeros(24, dtype=np.int16)
    together = 0
    for epoch in range(600):
        order = epoch_order(ranks, batch_size=8, seed=0, epoch=epoch).tolist()
        together += order.index(0) // 8 == order.index(1) // 8
    assert 183 - 5 * 11 < together < 183 + 5 * 11


def test_shorter_sides_are_drawn_equally_often():
    batches = stream([LANDSCAPE] * 10, 600, batch_size=1, shorter=(640, 720, 800))
    counts = Counter(batch[0].shorter for batch in batches)
    assert set(counts) == {640, 720, 800} and min(counts.values()) > 150  # mean 200, standard deviation 12


# ---- padding


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(SIZES, max_size=40),
    batch_size=st.integers(1, 8),
    epoch=st.integers(0, 9),
    seed=st.integers(0, 9),
)
def test_few_batches_mix_buckets(sizes, batch_size, epoch, seed):
    # Sorted by bucket, K buckets have K - 1 borders, each within one batch at most. With 3 batches of the most common
    # bucket, the batches that the epoch shares with its neighbours are of that bucket alone.
    sizes = sizes + [LANDSCAPE] * (3 * batch_size + len(sizes))
    ranks = rank_by_aspect([USUAL.bucket(*size) for size in sizes])
    per_epoch = len(sizes) // batch_size
    batches = stream(sizes, 3 * per_epoch, batch_size=batch_size, seed=seed, start=epoch * per_epoch)
    mixed = [{planned.epoch for planned in batch} for batch in batches if len({p.max_shape for p in batch}) > 1]
    assert all(len(epochs) == 1 for epochs in mixed)
    assert max(Counter(map(min, mixed)).values(), default=0) <= ranks.max()


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.sampled_from([WIDE, (427, 640), LANDSCAPE, SQUARE]), min_size=6, max_size=6))
def test_no_other_way_to_form_batches_of_landscape_images_needs_less_padding(sizes):
    # Brute force: six images in batches of two can be paired in 15 ways.
    def padded_pixels(images):
        return math.prod(pad(sizes, images, USUAL, 800))

    def pairings(images):
        if not images:
            yield 0
        for other in images[1:]:
            rest = [image for image in images[1:] if image != other]
            yield from (padded_pixels([images[0], other]) + more for more in pairings(rest))

    assert len(list(pairings(list(range(6))))) == 15
    found = sum(padded_pixels([planned.index for planned in batch]) for batch in stream(sizes, 3, batch_size=2))
    assert found == min(pairings(list(range(6))))


# ---- batches for evaluation


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(SIZES, max_size=40), setting=SHAPES, batch_size=st.integers(1, 9))
def test_evaluation_covers_each_image_once(sizes, setting, batch_size):
    (shorter, *_), padded_shapes = setting
    batches = eval_batches(sizes, batch_size=batch_size, shorter=shorter, padded_shapes=padded_shapes)
    assert sorted(planned.index for batch in batches for planned in batch) == list(range(len(sizes)))
    for batch in batches:
        (bucket,) = {padded_shapes.bucket(*sizes[planned.index]) for planned in batch}
        assert {planned.padded_shape for planned in batch} == {padded_shapes.padded_shape(bucket, shorter)}
        assert 1 <= len(batch) <= batch_size
        assert [planned.index for planned in batch] == sorted(planned.index for planned in batch)
    short = [batch for batch in batches if len(batch) < batch_size]
    assert len(short) <= len({padded_shapes.bucket(*size) for size in sizes})


# ---- the hash that seeds augmentation


def test_stable_hash_matches_blake2b_and_rarely_collides():
    # From  printf "('shorter', 0, 1)" | b2sum -l 32 : bytes 9390cdfb, least significant first.
    assert stable_hash("shorter", 0, 1) == 4224553107
    assert len(
        {stable_hash(seed, epoch, index) for seed in range(10) for epoch in range(10) for index in range(100)}
    ) > (
        9_990  # of 10000; two of 2 ** 32 values rarely collide
    )
    assert all(0 <= stable_hash(key) < 2**32 for key in range(100))
