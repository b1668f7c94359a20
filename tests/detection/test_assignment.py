import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher

from retinanet.detection import assignment as assignment_module
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.assignment import assign
from retinanet.structures import Targets

# Whole pixels, so that every area below is exact in float32: equal overlaps are equal in any order of computing.
GRIDS = AnchorGenerator(strides=(16, 64), sizes=(24, 90), rounding="torchvision")(64, 48)
ANCHORS = torch.cat([level.view(-1, 4) for level in GRIDS])
BOXES_AT_ONCE = 8
OBJECT, CROWD, PADDING = "object", "crowd", "padding"


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """Few enough that every test meets their edges."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(assignment_module.PAIRS_AT_ONCE, "cpu", BOXES_AT_ONCE * len(ANCHORS))
        patch.setattr(assignment_module, "BOXES_AT_ONCE", BOXES_AT_ONCE)
        yield


def match(anchors, targets, **settings):
    """`assign` for any boxes (A, 4) as anchors."""
    return assign([anchors.view(1, 1, -1, 4)], targets, **settings)


def targets_of(*images):
    """Images as lists of (box, kind) -> Targets, padded to the longest, at least to one row."""
    length = max(1, *(len(rows) for rows in images))
    padded = [[*rows, *[((0, 0, 1, 1), PADDING)] * (length - len(rows))] for rows in images]
    return Targets(
        boxes=torch.tensor([[box for box, _ in rows] for rows in padded], dtype=torch.float32),
        labels=torch.zeros(len(images), length, dtype=torch.int64),
        is_object=torch.tensor([[kind == OBJECT for _, kind in rows] for rows in padded]),
        is_crowd=torch.tensor([[kind == CROWD for _, kind in rows] for rows in padded]),
    )


def objects(*boxes):
    return targets_of([(box, OBJECT) for box in boxes])


def overlap(box, anchor):
    """Shared area, IoU and share of the anchor, rounded to float32 once: the areas are exact."""
    width = min(box[2], anchor[2]) - max(box[0], anchor[0])
    height = min(box[3], anchor[3]) - max(box[1], anchor[1])
    shared = max(0.0, width) * max(0.0, height)
    box_area = (box[2] - box[0]) * (box[3] - box[1])
    anchor_area = (anchor[2] - anchor[0]) * (anchor[3] - anchor[1])
    return shared and np.float32(shared / (box_area + anchor_area - shared)), np.float32(shared / anchor_area)


def assign_slowly(anchors, rows, fg_iou, bg_iou, low_quality_matches, ignore_ioa):
    """The rule for one image, anchor by anchor: the row it learns, "negative", or "ignored"."""
    iou = {r: [overlap(box, a)[0] for a in anchors] for r, (box, kind) in enumerate(rows) if kind == OBJECT}
    crowds = [box for box, kind in rows if kind == CROWD]
    result = []
    for i, anchor in enumerate(anchors):
        best = max(iou, key=lambda r: iou[r][i], default=None)  # the first of equals
        best_iou = 0 if best is None else iou[best][i]
        closest = low_quality_matches and any(0 < row[i] == max(row) for row in iou.values())
        crowded = ignore_ioa > 0 and any(overlap(box, anchor)[1] >= np.float32(ignore_ioa) for box in crowds)
        if best_iou >= np.float32(fg_iou) or closest:
            result.append(best)
        else:
            result.append("negative" if best_iou < np.float32(bg_iou) and not crowded else "ignored")
    return result


def told(assignment, image=0):
    """Of each anchor the row that it learns, "negative", or "ignored"."""
    rows = zip(*(part[image].tolist() for part in assignment), strict=True)
    assert not (assignment.positive & assignment.negative).any()
    return [index if positive else "negative" if negative else "ignored" for index, positive, negative in rows]


@st.composite
def some_boxes(draw):
    """In quarters of a pixel: equal to an anchor, tiny, huge, far outside, or anywhere."""
    corner = st.integers(-200, 400)
    kind = draw(st.sampled_from(["anchor", "tiny", "huge", "outside", "any"]))
    if kind == "anchor":
        return tuple(draw(st.sampled_from(ANCHORS.tolist())))
    if kind == "huge":
        return (-250.0, -250.0, 250.0 + draw(st.integers(0, 100)) / 4, 250.0)
    if kind == "outside":
        return (500.0, 500.0, 510.0, 500.0 + draw(st.integers(1, 40)))
    x, y = draw(corner) / 4, draw(corner) / 4
    side = st.integers(1, 6 if kind == "tiny" else 300)
    return (x, y, x + draw(side) / 4, y + draw(side) / 4)


@st.composite
def some_rows(draw):
    """What is in one image: few or many rows, the same box more than once, padding and crowds in between."""
    boxes = draw(st.lists(some_boxes(), min_size=1, max_size=4))
    kinds = st.sampled_from([OBJECT, OBJECT, OBJECT, CROWD, PADDING])
    size = draw(st.sampled_from([0, 1, 3, BOXES_AT_ONCE, BOXES_AT_ONCE + 1, 2 * BOXES_AT_ONCE + 3]))
    rows = []
    for _ in range(size):
        kind = draw(kinds)
        rows.append(((0, 0, 1, 1) if kind == PADDING else draw(st.one_of(st.sampled_from(boxes), some_boxes())), kind))
    return rows


@settings(deadline=None, max_examples=60)
@given(
    st.lists(some_rows(), min_size=1, max_size=3),
    st.sampled_from([(0.5, 0.4), (0.5, 0.5), (0.7, 0.3)]),
    st.booleans(),
    st.sampled_from([0, 0.25, 0.5, 1]),
)
def test_assignment_is_that_of_a_loop(images, ious, low_quality_matches, ignore_ioa):
    fg_iou, bg_iou = ious
    assignment = assign(
        GRIDS,
        targets_of(*images),
        fg_iou=fg_iou,
        bg_iou=bg_iou,
        low_quality_matches=low_quality_matches,
        ignore_ioa=ignore_ioa,
    )
    for image, rows in enumerate(images):
        expected = assign_slowly(ANCHORS.tolist(), rows, fg_iou, bg_iou, low_quality_matches, ignore_ioa)
        assert told(assignment, image) == expected


@pytest.mark.parametrize("low_quality_matches", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_torchvisions(seed, low_quality_matches):
    generator = torch.Generator().manual_seed(seed)
    grids = AnchorGenerator()(256, 320)
    anchors = torch.cat([level.view(-1, 4) for level in grids])
    corner = torch.rand(30, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + 2 + torch.rand(30, 2, generator=generator) ** 2 * 300], dim=1)
    iou = torchvision.ops.box_iou(boxes, anchors)
    assert (iou.amax(dim=1) > 0).all()  # torchvision lets a box that touches nothing claim every anchor
    matches = Matcher(0.5, 0.4, allow_low_quality_matches=low_quality_matches)(iou)

    assignment = assign(grids, objects(*boxes.tolist()), low_quality_matches=low_quality_matches)
    assert torch.equal(assignment.positive[0], matches >= 0)
    assert torch.equal(assignment.negative[0], matches == Matcher.BELOW_LOW_THRESHOLD)
    assert torch.equal(assignment.gt_index[0][matches >= 0], matches[matches >= 0])
    assert (matches >= 0).any() and (matches == Matcher.BETWEEN_THRESHOLDS).any()


def assign_at_once(anchors, targets, fg_iou=0.5, bg_iou=0.4, ignore_ioa=0.5):
    """The rule with a value for each pair, on torchvision's overlaps: gt_index, positive and negative, (B, A) each."""
    parts = []
    for boxes, _, is_object, is_crowd in zip(*targets[:4], strict=True):
        iou = torchvision.ops.box_iou(boxes, anchors) * is_object[:, None]
        best, index = iou.amax(dim=0), iou.numpy().argmax(axis=0)  # numpy's is the first of equals
        closest = ((iou == iou.amax(dim=1, keepdim=True)) & (iou > 0)).any(dim=0)
        sides = torch.minimum(boxes[:, None, 2:], anchors[:, 2:]) - torch.maximum(boxes[:, None, :2], anchors[:, :2])
        shared = sides.clamp(min=0).prod(dim=2) * is_crowd[:, None]
        crowded = shared.amax(dim=0) >= ignore_ioa * torchvision.ops.box_area(anchors)
        positive = (best >= fg_iou) | closest
        parts.append((torch.from_numpy(index), positive, (best < bg_iou) & ~positive & ~crowded))
    return tuple(torch.stack(part) for part in zip(*parts, strict=True))


def boxes_of_all_kinds(anchors, generator):
    """Floats of no special form, by 10: anywhere, tiny, huge, thin, an anchor, one moved by a hair, outside; one box 30
    times, which is more than are looked at together."""
    corner, side = torch.rand(6, 10, 2, generator=generator) * 150, torch.rand(6, 10, 2, generator=generator)
    anywhere, tiny, huge = side[0] * 120 + 1, side[1] * 3 + 0.01, side[2] * 2000 + 300
    thin = side[3] * torch.tensor([300.0, 2.0]) + 0.5
    sides = torch.stack([anywhere, tiny, huge, thin, side[4] * 20 + 5, side[5] * 20 + 5])
    corner[2] -= 250
    corner[4] -= 60  # partly or wholly to the left and above
    corner[5] += 2000
    chosen = anchors[torch.randint(len(anchors), (10,), generator=generator)]
    moved = chosen + torch.rand(10, 4, generator=generator) * 1e-4
    mixed = torch.cat([torch.cat([corner, corner + sides], dim=2).view(-1, 4), chosen, moved])
    mixed = torch.cat([mixed, mixed[:1].expand(30, 4)])
    return mixed[torch.randperm(len(mixed), generator=generator)]


@pytest.mark.parametrize(
    ("pairs", "boxes_at_once"),  # a row of anchors, parts of a grid, grids, all images
    [(1, assignment_module.BOXES_AT_ONCE), (3000, 7), (2**18, 1), (2**18, assignment_module.BOXES_AT_ONCE), (2**25, 7)],
)
@pytest.mark.parametrize("rounding", ["none", "torchvision"])
def test_blocks_of_any_size_give_what_all_pairs_at_once_give_to_the_last_bit(
    pairs, boxes_at_once, rounding, monkeypatch
):
    monkeypatch.setitem(assignment_module.PAIRS_AT_ONCE, "cpu", pairs)
    monkeypatch.setattr(assignment_module, "BOXES_AT_ONCE", boxes_at_once)
    grids = AnchorGenerator(rounding=rounding)(96, 120)
    anchors = torch.cat([level.view(-1, 4) for level in grids])
    generator = torch.Generator().manual_seed(2)
    boxes = torch.stack([boxes_of_all_kinds(anchors, generator) for _ in range(3)])
    kind = torch.rand(boxes.shape[:2], generator=generator)
    kind[2] = 0  # every box of the last image is an object
    targets = Targets(boxes, torch.zeros(kind.shape, dtype=torch.int64), kind < 0.7, kind > 0.85)
    assert targets.has_crowd
    expected = assign_at_once(anchors, targets)
    for part, right in zip(assign(grids, targets), expected, strict=True):
        assert torch.equal(part, right)
    assert all(mask.any() for mask in (expected[1], expected[2], ~expected[1] & ~expected[2]))


def test_thresholds_by_hand():
    anchors = torch.tensor([[0.0, 0.0, 10.0, width] for width in (10, 5, 4.5, 4, 3)])
    # The box is 10 x 10: the IoUs are 1, 0.5, 0.45, 0.4 and 0.3.
    assignment = match(anchors, objects((0, 0, 10, 10)))
    assert told(assignment) == [0, 0, "ignored", "ignored", "negative"]


def test_each_anchor_takes_the_box_that_it_overlaps_most_and_of_equals_the_first(monkeypatch):
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 16.0]])
    tall, square = (0, 0, 10, 16), (0, 0, 10, 10)
    assert told(match(anchors, objects(tall, square, square, tall))) == [1, 0]
    monkeypatch.setitem(assignment_module.PAIRS_AT_ONCE, "cpu", BOXES_AT_ONCE * len(anchors))
    apart = [(900, 900, 910, 910)] * BOXES_AT_ONCE  # the equals are in different chunks
    assert told(match(anchors, objects(square, *apart, square))) == [0, 0]
    assert told(match(anchors, objects(*apart, square, *apart, tall))) == [BOXES_AT_ONCE, 2 * BOXES_AT_ONCE + 1]


def test_box_below_every_threshold_gets_its_closest_anchors_ties_included():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [0.0, 20.0, 10.0, 30.0]])
    between = (8, 0, 22, 10)  # IoU 20 / 220 with the first two, none with the third
    assert told(match(anchors, objects(between))) == [0, 0, "negative"]
    assert told(match(anchors, objects(between), low_quality_matches=False)) == ["negative"] * 3


def test_box_touching_no_anchor_claims_none():
    far_away = objects((900, 900, 910, 910))
    assert told(assign(GRIDS, far_away)) == ["negative"] * len(ANCHORS)
    touching_an_edge = objects((ANCHORS[:, 2].max().item(), 0, 1000, 10))
    assert told(assign(GRIDS, touching_an_edge)) == ["negative"] * len(ANCHORS)


@pytest.mark.parametrize("num_rows", [0, 1, BOXES_AT_ONCE + 1])
def test_without_objects_every_anchor_is_negative(num_rows):
    targets = targets_of([((0, 0, 1, 1), PADDING)] * num_rows, [])
    if num_rows == 0:
        targets = Targets(*(part[:, :0] for part in targets[:4]))
    assignment = assign(GRIDS, targets)
    assert assignment.positive.shape == (2, len(ANCHORS))
    assert assignment.negative.all() and not assignment.positive.any()


def test_one_images_boxes_do_not_reach_another():
    full = [((0, 0, 24, 24), OBJECT), ((0, 0, 48, 64), CROWD)]
    assignment = assign(GRIDS, targets_of(full, []))
    assert told(assignment, 0) == told(assign(GRIDS, targets_of(full)))
    assert told(assignment, 1) == ["negative"] * len(ANCHORS)


def test_crowd_takes_negatives_only():
    # One anchor on an object, one in a crowd, one half in it, one a quarter in it, and one between the thresholds.
    anchors = torch.tensor(
        [[0, 0, 10, 10], [40, 0, 50, 10], [55, 0, 65, 10], [57.5, 0, 67.5, 10], [0, 0, 10, 4.5]], dtype=torch.float32
    )
    rows = [((0, 0, 10, 10), OBJECT), ((-5, -5, 60, 20), CROWD)]
    ignored, negative = "ignored", "negative"
    assert told(match(anchors, targets_of(rows))) == [0, ignored, ignored, negative, ignored]
    assert told(match(anchors, targets_of(rows), ignore_ioa=0.25)) == [0, ignored, ignored, ignored, ignored]
    assert told(match(anchors, targets_of(rows), ignore_ioa=0)) == [0, negative, negative, negative, ignored]


def test_crowd_is_judged_region_by_region():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    halves = [((0, 0, 4, 10), CROWD), ((4, 0, 8, 10), CROWD)]  # 0.4 each, 0.8 together
    assert told(match(anchors, targets_of(halves))) == ["negative"]


def test_low_quality_matches_do_not_look_at_crowds():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    small_object = ((1, 1, 3, 3), OBJECT)
    assert told(match(anchors, targets_of([small_object, ((0, 0, 50, 50), CROWD)]))) == [0, "ignored"]
    small_crowd = ((1, 1, 3, 3), CROWD)  # no object: it claims no anchor, and covers too little of one
    assert told(match(anchors, targets_of([small_crowd]))) == ["negative", "negative"]


def test_the_host_reads_nothing(host_reads):
    rows = [((x, 0, x + 20, 30), OBJECT) for x in range(BOXES_AT_ONCE + 2)] + [((0, 0, 40, 40), CROWD)]
    targets = targets_of(rows, [])
    with host_reads() as reads:
        assign(GRIDS, targets)
    assert reads == []
    with host_reads() as reads:  # the counter does count
        targets.boxes[targets.is_object].sum().item()
    assert reads == ["aten::index", "aten::_local_scalar_dense"]


def test_any_boxes_are_a_grid_of_one_cell():
    targets = targets_of([((x, 0, x + 20, 30), OBJECT) for x in range(5)], [((0, 0, 40, 40), CROWD)])
    for part, same in zip(match(ANCHORS, targets), assign(GRIDS, targets), strict=True):
        assert torch.equal(part, same)


@pytest.mark.parametrize("rounding", ["none", "torchvision"])
def test_overlap_of_a_grid_is_that_of_its_boxes_to_the_last_bit(rounding):
    # Taken apart into columns and rows, areas must be the floats that each anchor has by itself: ties depend on it.
    generator = torch.Generator().manual_seed(1)
    grids = AnchorGenerator(rounding=rounding, offset=0.0 if rounding == "torchvision" else 0.37)(200, 333)
    anchors = torch.cat([level.view(-1, 4) for level in grids])
    corner = torch.rand(12, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + 1 + torch.rand(12, 2, generator=generator) * 60], dim=1)
    shown = assign(grids, objects(*boxes.tolist()))
    iou = torchvision.ops.box_iou(boxes, anchors)
    closest = ((iou == iou.amax(1, keepdim=True)) & (iou > 0)).any(0)
    assert torch.equal(shown.positive[0], closest | (iou.amax(0) >= 0.5))
    assert torch.equal(shown.gt_index[0][shown.positive[0]], iou.max(0).indices[shown.positive[0]])


def test_memory_is_bounded_for_thousands_of_boxes(monkeypatch):
    monkeypatch.setitem(assignment_module.PAIRS_AT_ONCE, "cpu", 2**16)
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return result

    grids = AnchorGenerator()(128, 128)
    targets = objects(*([(10, 10, 60, 70), (3, 5, 100, 30)] * 1000))
    count = sum(level[..., 0].numel() for level in grids)
    with Sizes():
        assign(grids, targets)
    # No tensor holds a value for each pair: 2,000 boxes are as many as 2**16 pairs allow at once, or the anchors, or
    # the boxes themselves.
    assert largest <= max(2**16 * 4, 2 * count * 8, 2000 * 4 * 4) < 2000 * count * 4 / 50
