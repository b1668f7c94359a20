import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.detection.nms import nms_by_group


def nms_by_loop(boxes, scores, groups, max_iou):
    """From best to worst, keep each box whose IoU with every kept box of its group is at most `max_iou`."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(groups[i] != groups[j] or iou(boxes[i], boxes[j]) <= max_iou for j in kept):
            kept.append(i)
    return kept


def iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (both - shared) if shared else 0


@st.composite
def some_boxes(draw):
    """Boxes with small integer coordinates: some touch, have equal scores or exactly the threshold IoU, or are flat."""
    place, side = st.integers(-5, 12), st.integers(0, 12)
    row = st.tuples(place, place, side, side, st.integers(0, 6), st.integers(0, 3))
    rows = draw(st.lists(row, max_size=30))
    boxes = [[x, y, x + w, y + h] for x, y, w, h, _, _ in rows]
    return boxes, [score / 6 for *_, score, _ in rows], [group * 1000 for *_, group in rows]


@settings(deadline=None, max_examples=200)
@given(some_boxes(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_nms_equals_a_loop_over_boxes(drawn, max_iou):
    boxes, scores, groups = drawn
    keep = nms_by_group(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(groups, dtype=torch.int64),
        max_iou=max_iou,
    )
    assert keep.tolist() == nms_by_loop(boxes, scores, groups, max_iou)


def random_groups(seed, count=3000, num_groups=400):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(num_groups, 2, generator=generator) * 20_000 - 10_000
    groups = torch.randint(num_groups, (count,), generator=generator)
    corner = centre[groups] + torch.rand(count, 2, generator=generator) * 10
    boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 20], dim=1)
    return boxes, torch.rand(count, generator=generator), groups * 17  # some group numbers are unused


@pytest.mark.parametrize("seed", range(3))
def test_nms_equals_torchvisions_within_each_group(seed):
    boxes, scores, groups = random_groups(seed)
    expected = []
    for group in groups.unique():
        (mine,) = torch.where(groups == group)
        expected.append(mine[torchvision.ops.nms(boxes[mine], scores[mine], 0.5)])
    expected = torch.cat(expected)
    keep = nms_by_group(boxes, scores, groups, max_iou=0.5)
    assert torch.equal(keep, expected[scores[expected].argsort(descending=True)])
    assert len(groups.unique()) < len(keep) < len(boxes)


def test_precision_is_kept_in_the_last_of_many_groups():
    # The sides are 2 and 1 thousandths of a pixel. The IoU of the pair is exactly 0.5, which does not exceed 0.5.
    unit = 2.0**-10
    pair = torch.tensor([[0, 0, 2 * unit, unit], [0, 0, unit, unit]])
    far = torch.tensor([[0.0, 0.0, 10_000.0, 10_000.0]])
    boxes, groups = torch.cat([pair, far]), torch.tensor([7999, 7999, 0])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert nms_by_group(boxes, scores, groups, max_iou=0.5).tolist() == [0, 1, 2]
    assert nms_by_group(boxes, scores, groups, max_iou=0.49).tolist() == [0, 2]


def test_groups_do_not_affect_each_other():
    boxes = torch.tensor([[10.0, 10.0, 20.0, 20.0]]).repeat(3, 1)
    scores, groups = torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 1])
    assert nms_by_group(boxes, scores, groups, max_iou=0.5).tolist() == [1, 0]


def test_groups_with_negative_coordinates_do_not_affect_each_other():
    """Boxes may lie outside the image. A shift by only the largest coordinate would place the second over the first."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [-11.0, -11.0, -1.0, -1.0]])
    assert nms_by_group(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), max_iou=0.5).tolist() == [0, 1]


def test_first_box_is_kept_if_scores_are_equal():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(4, 1)
    groups = torch.tensor([0, 0, 1, 1])
    assert nms_by_group(boxes, torch.full((4,), 0.5), groups, max_iou=0.5).tolist() == [0, 2]


def test_nms_of_no_boxes_keeps_none():
    keep = nms_by_group(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), max_iou=0.5)
    assert keep.shape == (0,) and keep.dtype == torch.int64
