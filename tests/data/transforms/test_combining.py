import pytest
import torch

from retinanet.data.transforms.combining import CopyPaste, MixUp, Mosaic, cut_out, mix
from retinanet.data.transforms.sample import Sample
from tests.helpers.samples import (
    GREY,
    apply,
    assert_same_sample,
    assert_valid,
    grey_sample,
    noise_sample,
    partners_of,
    planned_image,
)

COMBINING = {"mosaic": Mosaic(1.0), "mixup": MixUp(1.0, 32.0), "copy_paste": CopyPaste(1.0, 3)}


def filled(value, height, width, label, *, is_crowd=False):
    """An image of one colour with one box, which covers it."""
    image = torch.full((3, height, width), value, dtype=torch.uint8)
    box = torch.tensor([[0.0, 0.0, width, height]])
    return Sample(image, box, torch.tensor([label]), torch.tensor([is_crowd]))


# ---- mosaic


def test_mosaic_divides_the_planned_size_at_a_centre():
    planned = planned_image((48, 64))
    others = [filled(value, 30, 40, value, is_crowd=value == 20) for value in (10, 20, 30)]
    centres = set()
    for seed in range(40):
        torch.manual_seed(seed)
        partners = partners_of(*others, planned=planned, seed=seed)
        result = Mosaic(1.0)(filled(200, 60, 80, 200), planned, partners)
        assert result.size == (48, 64)  # 60 x 80 with shorter side 48
        # Each box covers one of four rectangles around the centre, in the colour that is its label.
        x, y = result.boxes[0, 2:].round().tolist()
        tiles = torch.tensor([[0, 0, x, y], [x, 0, 64, y], [0, y, x, 48], [x, y, 64, 48]])
        torch.testing.assert_close(result.boxes, tiles)
        assert 16 <= x <= 48 and 12 <= y <= 36
        for (x1, y1, x2, y2), label in zip(tiles.int().tolist(), result.labels.tolist(), strict=True):
            assert (result.image[:, y1:y2, x1:x2] == label).all()
        assert result.labels[0] == 200 and set(result.labels[1:].tolist()) <= {10, 20, 30}
        assert result.is_crowd.tolist() == [label == 20 for label in result.labels.tolist()]
        centres.add((x, y))
    assert len(centres) > 30


def test_mosaic_cuts_boxes_with_their_tiles():
    # Only part of a 40 x 160 image fits into its tile; objects in the rest are removed.
    long = grey_sample(40, 160, [[4 * n, 4, 4 * n + 3, 36] for n in range(40)], is_crowd=[False] * 40)
    for seed in range(20):
        torch.manual_seed(seed)
        planned = planned_image((64, 256), shorter=64, longer=256)
        result = Mosaic(1.0)(long, planned, partners_of(long, seed=seed))
        assert_valid(result, (64, 256))
        assert 0 < len(result.boxes) < 160


# ---- mix-up


def test_mixed_pixels_are_the_weighted_mean():
    sample, partner = filled(200, 20, 30, 1), filled(100, 10, 8, 2, is_crowd=True)
    result = mix(sample, partner, 0.25, top=4, left=5)
    assert (result.image[:, 4:14, 5:13] == 125).all()  # 0.25 * 200 + 0.75 * 100
    is_changed = (result.image != 200).any(dim=0)
    assert is_changed.sum() == 80
    assert result.boxes.tolist() == [[0, 0, 30, 20], [5, 4, 13, 14]]
    assert result.labels.tolist() == [1, 2] and result.is_crowd.tolist() == [False, True]
    assert (sample.image == 200).all()  # unchanged


def test_mixup_fits_the_partner_into_the_planned_size():
    planned = planned_image((48, 64))
    shares, places = [], set()
    for seed in range(40):
        torch.manual_seed(seed)
        result = MixUp(1.0, 32.0)(filled(200, 60, 80, 1), planned, partners_of(filled(0, 10, 5, 2)))
        assert result.size == (48, 64)
        x1, y1, x2, y2 = result.boxes[1].int().tolist()
        assert (x2 - x1, y2 - y1) == (24, 48)  # 10 x 5, as high as 48
        shares.append(result.image[0, y1, x1].item() / 200)
        places.add(x1)
    assert len(places) > 15
    # Beta(32, 32) has mean 1/2 and standard deviation 1 / sqrt(4 * 65) = 0.062; the mean of 60 draws has 0.008.
    assert abs(torch.tensor(shares).mean() - 0.5) < 0.04 and 0.03 < torch.tensor(shares).std() < 0.1


# ---- copy-paste


def test_pasted_object_keeps_its_pixels_and_relative_size():
    # The partner is half as large, so its object of 10 x 6 becomes 20 x 12.
    partner = grey_sample(30, 40, [[5, 4, 15, 10]])
    places = set()
    for seed in range(30):
        torch.manual_seed(seed)
        result = CopyPaste(1.0, 1)(filled(90, 60, 80, 7), planned_image(), partners_of(partner))
        assert result.labels.tolist() == [7, 0] and result.is_crowd.tolist() == [False, False]
        x1, y1, x2, y2 = result.boxes[1].int().tolist()
        assert (x2 - x1, y2 - y1) == (20, 12)
        assert result.image[:, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].float().mean() > 250
        is_changed = (result.image != 90).any(dim=0)
        assert is_changed.sum() == 240
        places.add((x1, y1))
    assert len(places) > 25


def test_pasting_removes_covered_objects_but_no_crowd_region():
    sample = grey_sample(40, 40, [[10, 10, 14, 14], [12, 12, 16, 16], [0, 0, 40, 40]], is_crowd=[False, True, False])
    result = CopyPaste(1.0, 1)(sample, planned_image(), partners_of(filled(9, 40, 40, 5)))  # covers everything
    assert result.labels.tolist() == [1, 5] and result.is_crowd.tolist() == [True, False]
    assert (result.image == 9).all() and (sample.image != 9).all()


def test_cut_out_includes_other_objects_inside_the_box():
    boxes = [
        [10, 10, 20, 20],  # the object
        [12, 12, 14, 18],  # inside
        [17, 10, 27, 20],  # 3 of 10 columns are inside: taken
        [18, 10, 28, 20],  # 2 of 10: not
        [18, 10, 28, 20],  # a crowd region: taken
        [25, 25, 30, 30],  # elsewhere
    ]
    before = grey_sample(30, 30, boxes, is_crowd=[False, False, False, False, True, False])
    result = cut_out(before, before.boxes[0])
    assert result.size == (10, 10)
    assert result.boxes.tolist() == [[0, 0, 10, 10], [2, 2, 4, 8], [7, 0, 10, 10], [8, 0, 10, 10]]
    assert result.labels.tolist() == [0, 1, 2, 4]


def test_cut_out_contains_boxes_that_end_between_pixels_or_at_the_edge():
    before = grey_sample(30, 30, [])
    before = before._replace(labels=torch.tensor([0]), is_crowd=torch.tensor([False]))
    for box, size, inside in (
        ([1.5, 2.25, 4.5, 9.0], (7, 4), [0.5, 0.25, 3.5, 7.0]),  # from (1, 2) to (5, 9)
        ([28.5, 29.0, 30.0, 30.0], (1, 2), [0.5, 0.0, 2.0, 1.0]),
    ):
        result = cut_out(before._replace(boxes=torch.tensor([box])), torch.tensor(box))
        assert result.size == size and result.boxes.tolist() == [inside]


def test_at_most_max_objects_are_pasted_and_no_crowd_regions():
    boxes = [[x, y, x + 1, y + 1] for y in (0, 10, 20) for x in (0, 10, 20)]
    crowd = [n % 2 == 0 for n in range(9)]
    partner = grey_sample(30, 30, boxes, is_crowd=crowd)
    counts, labels = set(), set()
    for seed in range(40):
        torch.manual_seed(seed)
        result = CopyPaste(1.0, 3)(grey_sample(30, 30, []), planned_image(), partners_of(partner))
        counts.add(len(result.boxes))
        labels |= set(result.labels.tolist())
    assert counts >= {1, 2, 3} and max(counts) == 3
    assert labels == {1, 3, 5, 7}


# ---- all three


@pytest.mark.parametrize(
    ("name", "partner", "complete"),
    [  # the image has complete classes 0, 1 and 2; class 4 is complete nowhere
        ("mosaic", [True, True, False, True, False], [True, True, False, False, False]),
        ("mixup", [False, True, True, True, False], [False, True, True, False, False]),
        ("copy_paste", [False, False, True, True, False], [False, False, True, False, False]),
        ("mosaic", [False] * 5, [False] * 5),
    ],
)
def test_class_is_complete_if_it_is_in_all_parts(name, partner, complete):
    sample = grey_sample(40, 60, [[1, 1, 30, 30]])._replace(is_complete=torch.tensor([True, True, True, False, False]))
    other = grey_sample(40, 60, [[1, 1, 30, 30]], first_label=1)._replace(is_complete=torch.tensor(partner))
    result = apply(COMBINING[name], sample, partners=partners_of(other, other), seed=0)
    assert 1 in result.labels  # combined
    assert result.is_complete.tolist() == complete
    assert sample.is_complete.tolist() == [True, True, True, False, False]  # unchanged
    untouched = apply(COMBINING[name], sample)  # without partners
    assert untouched.is_complete.tolist() == [True, True, True, False, False]


def test_each_of_four_tiles_limits_the_complete_classes():
    one_missing = [torch.arange(5) != missing for missing in range(4)]
    first, *others = [filled(9, 30, 40, n)._replace(is_complete=one_missing[n]) for n in range(4)]
    known = set()
    for seed in range(30):
        torch.manual_seed(seed)
        result = Mosaic(1.0)(first, planned_image(), partners_of(*others, seed=seed))
        # Class n is incomplete in the image of label n only.
        assert result.is_complete.tolist() == [n not in result.labels for n in range(5)]
        known.add(int(result.is_complete.sum()))
    assert known == {1, 2, 3}  # 2 to 4 different images; 4 are drawn with replacement


@pytest.mark.parametrize("name", COMBINING)
def test_samples_stay_valid_and_inputs_unchanged(name):
    for seed in range(6):
        samples = [noise_sample(4 * seed + n, 20 + 7 * n, 60 - 9 * n, count=n * 3) for n in range(4)]
        torch.manual_seed(seed)
        result = COMBINING[name](samples[seed % 4], planned_image((64, 64)), partners_of(*samples, seed=seed))
        assert_valid(result, (64, 64))
        for n, sample in enumerate(samples):
            assert_same_sample(sample, noise_sample(4 * seed + n, 20 + 7 * n, 60 - 9 * n, count=n * 3))


@pytest.mark.parametrize("name", COMBINING)
@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (3, 3)])
def test_tiny_images_and_partners(name, size):
    tiny, usual = filled(GREY, *size, 0), grey_sample(40, 60, [[1, 1, 30, 30]])
    for sample, partner in ((tiny, usual), (usual, tiny), (tiny, tiny)):
        torch.manual_seed(0)
        assert_valid(COMBINING[name](sample, planned_image((64, 64)), partners_of(partner)), (64, 64))


@pytest.mark.parametrize("name", COMBINING)
def test_image_is_unchanged_without_partners_or_with_probability_0(name):
    before = noise_sample(0)
    assert apply(COMBINING[name], before) is before  # the only image
    never = {"mosaic": Mosaic(0.0), "mixup": MixUp(0.0, 32.0), "copy_paste": CopyPaste(0.0, 3)}[name]
    assert never(before, planned_image(), partners_of(noise_sample(1))) is before
    torch.manual_seed(0)
    unreadable = partners_of(None, None)
    assert COMBINING[name](before, planned_image(), unreadable) is before
    assert {entry.replaced_by for entry in unreadable.unreadable} == {0}
