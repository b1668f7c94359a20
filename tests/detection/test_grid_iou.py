"""The kernel for IoU assignment: equality with `assign_reference`, bounded memory, and no synchronisations."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.detection import grid_iou
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.assignment import assign, assign_reference
from retinanet.structures import Targets
from tests.helpers.assignment import CROWD, OBJECT, objects, targets_of, without_rows
from tests.helpers.memory import LargestTensor

GRIDS = AnchorGenerator(strides=(16, 64), sizes=(24, 90), rounding="torchvision")(64, 48)
ANCHORS = torch.cat([level.view(-1, 4) for level in GRIDS])
SHIPPED_BOXES_AT_ONCE = grid_iou.BOXES_AT_ONCE
BOXES_AT_ONCE = 8


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """Make chunks so small that every test needs several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(grid_iou.PAIRS_AT_ONCE, "cpu", BOXES_AT_ONCE * len(ANCHORS))
        patch.setattr(grid_iou, "BOXES_AT_ONCE", BOXES_AT_ONCE)
        yield


def assert_same_assignment(assignment, expected):
    assert torch.equal(assignment.gt_index, expected.gt_index)
    assert torch.equal(assignment.positive, expected.positive)
    assert torch.equal(assignment.negative, expected.negative)


def boxes_of_all_kinds(anchors, generator):
    """Boxes of arbitrary floats: 10 of each kind (anywhere, tiny, huge, thin, partly outside, fully outside, equal to
    an anchor, slightly shifted from an anchor), and 30 copies of one box, which is more than a chunk."""
    corner, side = torch.rand(6, 10, 2, generator=generator) * 150, torch.rand(6, 10, 2, generator=generator)
    anywhere, tiny, huge = side[0] * 120 + 1, side[1] * 3 + 0.01, side[2] * 2000 + 300
    thin = side[3] * torch.tensor([300.0, 2.0]) + 0.5
    sides = torch.stack([anywhere, tiny, huge, thin, side[4] * 20 + 5, side[5] * 20 + 5])
    corner[2] -= 250
    corner[4] -= 60  # partly or fully to the left and above
    corner[5] += 2000
    chosen = anchors[torch.randint(len(anchors), (10,), generator=generator)]
    moved = chosen + torch.rand(10, 4, generator=generator) * 1e-4
    mixed = torch.cat([torch.cat([corner, corner + sides], dim=2).view(-1, 4), chosen, moved])
    mixed = torch.cat([mixed, mixed[:1].expand(30, 4)])
    return mixed[torch.randperm(len(mixed), generator=generator)]


def targets_of_all_kinds(anchors, generator, *, num_boxes=None):
    """Three images of objects, crowds and padding; the last one has only objects."""
    boxes = torch.stack([boxes_of_all_kinds(anchors, generator)[:num_boxes] for _ in range(3)])
    kind = torch.rand(boxes.shape[:2], generator=generator)
    kind[2] = 0
    return Targets(boxes, torch.zeros(kind.shape, dtype=torch.int64), kind < 0.7, kind > 0.85)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_boxes=st.integers(1, 2 * BOXES_AT_ONCE + 1),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    offset=st.sampled_from([0.0, 0.37, 0.5]),
    ious=st.tuples(st.floats(0.01, 1), st.floats(0, 1)).map(lambda pair: sorted(pair, reverse=True)),
    low_quality_matches=st.booleans(),
    ignore_ioa=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_kernel_equals_the_reference_bit_for_bit(seed, num_boxes, size, offset, ious, low_quality_matches, ignore_ioa):
    grids = AnchorGenerator(offset=offset)(*size)
    anchors = torch.cat([level.view(-1, 4) for level in grids])
    targets = targets_of_all_kinds(anchors, torch.Generator().manual_seed(seed), num_boxes=num_boxes)
    arguments = dict(fg_iou=ious[0], bg_iou=ious[1], low_quality_matches=low_quality_matches, ignore_ioa=ignore_ioa)
    assert_same_assignment(assign(grids, targets, **arguments), assign_reference(grids, targets, **arguments))


@pytest.mark.parametrize(
    ("pairs", "boxes_at_once"),  # blocks: a row of anchors, part of a grid, whole grids, all images
    [(1, SHIPPED_BOXES_AT_ONCE), (3000, 7), (2**18, 1), (2**18, SHIPPED_BOXES_AT_ONCE), (2**25, 7)],
)
@pytest.mark.parametrize("rounding", ["none", "torchvision"])
def test_blocks_of_any_size_equal_the_reference_bit_for_bit(pairs, boxes_at_once, rounding, monkeypatch):
    monkeypatch.setitem(grid_iou.PAIRS_AT_ONCE, "cpu", pairs)
    monkeypatch.setattr(grid_iou, "BOXES_AT_ONCE", boxes_at_once)
    grids = AnchorGenerator(rounding=rounding)(96, 120)
    anchors = torch.cat([level.view(-1, 4) for level in grids])
    targets = targets_of_all_kinds(anchors, torch.Generator().manual_seed(2))
    assert targets.has_crowd
    expected = assign_reference(grids, targets)
    assert_same_assignment(assign(grids, targets), expected)
    assert expected.positive.any() and expected.negative.any() and (~expected.positive & ~expected.negative).any()


@pytest.mark.parametrize("rounding", ["none", "torchvision"])
def test_iou_of_a_grid_equals_torchvisions_bit_for_bit(rounding):
    # Areas computed from columns and rows must equal those of single anchors exactly, because ties depend on them.
    generator = torch.Generator().manual_seed(1)
    grids = AnchorGenerator(rounding=rounding, offset=0.0 if rounding == "torchvision" else 0.37)(200, 333)
    anchors = torch.cat([level.view(-1, 4) for level in grids])
    corner = torch.rand(12, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + 1 + torch.rand(12, 2, generator=generator) * 60], dim=1)
    assignment = assign(grids, objects(*boxes.tolist()))
    iou = torchvision.ops.box_iou(boxes, anchors)
    closest = ((iou == iou.amax(1, keepdim=True)) & (iou > 0)).any(0)
    assert torch.equal(assignment.positive[0], closest | (iou.amax(0) >= 0.5))
    assert torch.equal(assignment.gt_index[0][assignment.positive[0]], iou.max(0).indices[assignment.positive[0]])


@pytest.mark.parametrize("rounding", ["none", "torchvision"])
def test_best_iou_row_and_crowd_area_equal_torchvisions(rounding):
    grids = AnchorGenerator(rounding=rounding)(96, 120)
    anchors = torch.cat([level.view(-1, 4) for level in grids])
    targets = targets_of_all_kinds(anchors, torch.Generator().manual_seed(3))
    grid = grid_iou.AnchorGrid.of(grids)
    num_images = 0
    for best in grid_iou.best_matches(grid, targets, crowds=True):
        iou, row, crowd_area = (torch.empty_like(best.iou) for _ in range(3))
        for values, out in ((best.iou, iou), (best.row, row), (best.crowd_area, crowd_area)):
            grid.write_in_anchor_order(values, out)
        for i, image in enumerate(range(len(targets.boxes))[best.images]):
            num_images += 1
            boxes, is_object, is_crowd = targets.boxes[image], targets.is_object[image], targets.is_crowd[image]
            expected = torchvision.ops.box_iou(boxes, anchors) * is_object[:, None]
            assert torch.equal(iou[i], expected.amax(0))
            assert row[i].tolist() == expected.numpy().argmax(axis=0).tolist()  # numpy also returns the first of ties
            sides = torch.minimum(boxes[:, None, 2:], anchors[:, 2:]) - torch.maximum(
                boxes[:, None, :2], anchors[:, :2]
            )
            assert torch.equal(crowd_area[i], (sides.clamp(min=0).prod(dim=2) * is_crowd[:, None]).amax(0))
    assert num_images == len(targets.boxes)


def test_without_rows_every_anchor_is_negative():
    assignment = assign(GRIDS, without_rows(2))
    assert assignment.positive.shape == (2, len(ANCHORS))
    assert assignment.negative.all() and not assignment.positive.any()


def test_arbitrary_boxes_are_a_grid_of_one_cell():
    targets = targets_of([((x, 0, x + 20, 30), OBJECT) for x in range(5)], [((0, 0, 40, 40), CROWD)])
    assert_same_assignment(assign([ANCHORS.view(1, 1, -1, 4)], targets), assign(GRIDS, targets))


def test_assignment_does_not_synchronise_the_device(host_reads):
    rows = [((x, 0, x + 20, 30), OBJECT) for x in range(BOXES_AT_ONCE + 2)] + [((0, 0, 40, 40), CROWD)]
    targets = targets_of(rows, [])
    with host_reads() as reads:
        assign(GRIDS, targets)
    assert reads == []
    with host_reads() as reads:  # check that the counter works
        targets.boxes[targets.is_object].sum().item()
    assert reads == ["aten::index", "aten::_local_scalar_dense"]


def test_memory_is_bounded_for_thousands_of_boxes(monkeypatch):
    monkeypatch.setitem(grid_iou.PAIRS_AT_ONCE, "cpu", 2**16)
    grids = AnchorGenerator()(128, 128)
    targets = objects(*([(10, 10, 60, 70), (3, 5, 100, 30)] * 1000))
    count = sum(level[..., 0].numel() for level in grids)
    with LargestTensor() as tensors:
        assign(grids, targets)
    # No tensor has one value per pair. The largest have one value per pair in a block, per anchor, or per box.
    assert tensors.largest <= max(2**16 * 4, 2 * count * 8, 2000 * 4 * 4) < 2000 * count * 4 / 50
