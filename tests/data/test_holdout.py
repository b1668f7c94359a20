"""Properties of the split: it depends on names alone, groups stay together, and both sides have images."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given

from retinanet.data.holdout import is_held_out
from retinanet.errors import InputError
from tests.helpers.datasets import dataset_of, image_record

FRAMES = r"^(.*)_frame"
names = st.lists(
    st.from_regex(r"[a-e]{1,2}_frame[0-9]{1,3}\.jpg", fullmatch=True), min_size=2, max_size=40, unique=True
)


def held_out(paths, *, fraction=0.2, group=None):
    data = dataset_of([image_record(path, image_id=number) for number, path in enumerate(paths)])
    mask = is_held_out(data, fraction=fraction, group=group)
    return {path for path, is_out in zip(paths, mask.tolist(), strict=True) if is_out}


def test_share_is_close_to_the_fraction():
    paths = [f"{number:05}.jpg" for number in range(20_000)]
    # The standard deviation of the count is sqrt(20000 * 0.2 * 0.8) = 57: five standard deviations are 283.
    assert abs(len(held_out(paths)) - 4000) < 283


@given(names, names)
def test_images_keep_their_side_when_others_are_added(first, others):
    before = held_out(first, fraction=0.5)
    assume(1 < len(before) < len(first) - 1)  # otherwise the fraction was adjusted so that both sides have images
    both = sorted({*first, *others})
    assert held_out(both, fraction=0.5) & set(first) == before


@given(names)
def test_order_and_folder_do_not_matter(paths):
    there = held_out([f"/data/set/{path}" for path in reversed(paths)], fraction=0.4)
    assert {path.rpartition("/")[2] for path in there} == held_out(paths, fraction=0.4)


@given(names)
def test_groups_of_a_pattern_stay_together(paths):
    group_of = {path: path.partition("_")[0] for path in paths}
    assume(len(set(group_of.values())) > 1)
    chosen = held_out(paths, fraction=0.3, group=FRAMES)
    assert 0 < len(chosen) < len(paths)
    assert {group_of[path] for path in chosen}.isdisjoint(group_of[path] for path in set(paths) - chosen)


def test_images_of_a_folder_stay_together():
    paths = [f"/data/scene{scene}/{number}.jpg" for scene in range(20) for number in range(5)]
    chosen = held_out(paths, fraction=0.3, group="folder")
    assert {path.split("/")[2] for path in chosen}.isdisjoint(path.split("/")[2] for path in set(paths) - chosen)
    assert 0 < len(chosen) < 100


@pytest.mark.parametrize("group", [r"\d+", r"(x)?\d+"])
def test_whole_match_is_used_if_the_pattern_has_no_group(group):
    chosen = held_out([f"{letter}{number}.jpg" for number in range(30) for letter in "ab"], group=group)
    assert {path.replace("a", "b") for path in chosen} == {path for path in chosen if path[0] == "b"}


@pytest.mark.parametrize(("fraction", "count"), [(1e-9, 1), (1 - 1e-9, 4)])
def test_both_sides_have_an_image(fraction, count):
    assert len(held_out([f"{number}.jpg" for number in range(5)], fraction=fraction)) == count


def test_one_group_leaves_nothing_to_train_on():
    with pytest.raises(
        InputError, match=r"all 3 images are in one group, so none can be held out; change data.val_group"
    ):
        held_out(["/data/one/a.jpg", "/data/one/b.jpg", "/data/one/c.jpg"], group="folder")


def test_masks_are_aligned_with_the_dataset():
    data = dataset_of([image_record(f"{number}.jpg", image_id=number) for number in range(7)])
    mask = is_held_out(data, fraction=0.5, group=None)
    assert mask.shape == (7,) and mask.dtype == np.bool_
