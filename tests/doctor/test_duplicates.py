import io

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image
from torchvision.transforms.v2 import functional as F

from retinanet.doctor.duplicates import MAX_DISTANCE, difference_hash, groups_of_equals, near_pairs


def test_bits_of_a_hash_compare_neighbours():
    """If nine columns get darker to the right, each cell is brighter than its right neighbour; reversed, none is."""
    ramp = torch.linspace(240, 0, 9).byte().expand(3, 8, 9)
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(ramp.flip(2)) == 0


def test_flat_image_has_no_hash():
    assert difference_hash(torch.full((3, 40, 50), 7, dtype=torch.uint8)) is None
    assert difference_hash((torch.rand(3, 64, 72) * 5).byte()) is None


@pytest.mark.parametrize("size", [(96, 126), (240, 324)])
def test_copies_have_near_hashes_and_other_images_do_not(size):
    random = np.random.default_rng(0)
    hashes = []
    for _ in range(20):  # random images: one grey level per cell of the hash, enlarged
        coarse = Image.fromarray(random.integers(0, 255, (8, 9), dtype=np.uint8)).convert("RGB")
        image = coarse.resize(size[::-1], Image.Resampling.BICUBIC)
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=60)
        copies = [image, Image.open(stored), image.resize((size[1] // 2, size[0] // 2))]
        own = [difference_hash(F.pil_to_tensor(copy)) for copy in copies]
        assert all((own[0] ^ other).bit_count() <= MAX_DISTANCE for other in own)
        hashes.append(own[0])
    assert near_pairs(hashes) == []


# Few distinct values, so that pairs at all distances occur.
hashes = st.lists(
    st.none() | st.builds(lambda base, flips: base ^ sum({1 << flip for flip in flips}),
                          st.sampled_from([0, 2**64 - 1, 0x0F0F0F0F0F0F0F0F]),
                          st.lists(st.integers(0, 63), max_size=5)),
    max_size=25,
)  # fmt: skip


@given(hashes)
def test_near_pairs_equal_brute_force(values):
    expected = [
        (first, second)
        for first in range(len(values))
        for second in range(first + 1, len(values))
        if values[first] is not None
        and values[second] is not None
        and bin(values[first] ^ values[second]).count("1") <= MAX_DISTANCE
    ]
    assert near_pairs(values) == expected


def test_equal_files():
    assert groups_of_equals([b"a", b"b", None, b"a", None, b"c", b"b"]) == [[0, 3], [1, 6]]
