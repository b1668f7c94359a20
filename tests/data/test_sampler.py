import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.data.padded_shapes import resized
from retinanet.data.sampler import eval_batches, stable_hash, train_batches
from tests.helpers.padded_shapes import SHAPES, SIZES, USUAL


def stream(sizes, num_batches, *, batch_size=4, shorter=(800,), padded_shapes=USUAL, seed=0):
    batches = train_batches(sizes, batch_size=batch_size, shorter=shorter, padded_shapes=padded_shapes, seed=seed)
    return list(itertools.islice(batches, num_batches))


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=25),
    setting=SHAPES,
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_stream_has_full_batches_of_one_bucket_and_complete_epochs(sizes, setting, batch_size, seed):
    shorter, padded_shapes = setting
    num_batches = 4 * (len(sizes) // batch_size + 1)
    batches = stream(sizes, num_batches, batch_size=batch_size, shorter=shorter, padded_shapes=padded_shapes, seed=seed)
    buckets = [padded_shapes.bucket(*size) for size in sizes]
    bucket_sizes = Counter(buckets)
    emitted = {bucket: [] for bucket in bucket_sizes}
    for batch in batches:
        assert len(batch) == batch_size
        (padded_shape,) = {planned.padded_shape for planned in batch}
        (side,) = {planned.shorter for planned in batch}
        (bucket,) = {buckets[planned.index] for planned in batch}
        assert side in shorter and padded_shape == padded_shapes.padded_shape(bucket, side)
        for planned in batch:
            height, width = resized(*sizes[planned.index], planned.shorter, planned.longer)
            assert height <= padded_shape[0] and width <= padded_shape[1]
        emitted[bucket] += [(planned.epoch, planned.index) for planned in batch]

    # In its bucket an image occurs once per epoch, and epochs are in order, none skipped.
    max_waiting = 0
    last_epoch = max(epoch for samples in emitted.values() for epoch, _ in samples)
    for bucket, samples in emitted.items():
        assert len(set(samples)) == len(samples)
        assert [epoch for epoch, _ in samples] == [i // bucket_sizes[bucket] for i in range(len(samples))]
        max_waiting += max(0, (last_epoch + 1) * bucket_sizes[bucket] - len(samples))
    # Images not emitted yet wait for a full batch of their bucket, or belong to the rest of the current epoch.
    assert max_waiting < len(sizes) + len(bucket_sizes) * batch_size


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=15),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 99),
    cut=st.integers(0, 20),
)
def test_stream_is_a_pure_function_of_its_arguments(sizes, batch_size, seed, cut):
    options = {"batch_size": batch_size, "shorter": (640, 672, 800), "seed": seed}
    whole = stream(sizes, 20, **options)
    assert stream(sizes, 20, **options) == whole
    assert stream(sizes, cut, **options) == whole[:cut]


def test_single_bucket_gives_exact_epochs():
    batches = stream([(480, 640)] * 12, 9, batch_size=4)
    for epoch in range(3):
        epoch_images = [planned for batch in batches[3 * epoch : 3 * epoch + 3] for planned in batch]
        assert sorted(planned.index for planned in epoch_images) == list(range(12))
        assert {planned.epoch for planned in epoch_images} == {epoch}


def test_leftover_images_start_the_next_batch():
    # Of 5 images in batches of 3, two wait: the second batch has those and the first image of the next epoch.
    first, second, *_ = stream([(480, 640)] * 5, 5, batch_size=3)
    assert [planned.epoch for planned in first + second] == [0, 0, 0, 0, 0, 1]
    assert sorted(planned.index for planned in (first + second)[:5]) == list(range(5))


def test_batch_may_be_larger_than_the_dataset():
    (batch,) = stream([(480, 640)] * 2, 1, batch_size=5)
    assert [planned.epoch for planned in batch] == [0, 0, 1, 1, 2]


def test_seed_and_epoch_change_the_order():
    orders = {
        tuple(planned.index for planned in stream([(480, 640)] * 30, epoch + 1, batch_size=30, seed=seed)[epoch])
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_shorter_sides_are_drawn_equally_often():
    batches = stream([(480, 640)] * 10, 600, batch_size=1, shorter=(640, 720, 800))
    counts = Counter(batch[0].shorter for batch in batches)
    assert set(counts) == {640, 720, 800} and min(counts.values()) > 150  # 200 on average, deviation 12


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
        9_990  # of 10000; two of 2 ** 32 values rarely meet
    )
    assert all(0 <= stable_hash(key) < 2**32 for key in range(100))
