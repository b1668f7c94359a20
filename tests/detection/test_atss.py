import statistics

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from retinanet.detection import atss
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.atss import assign_atss
from tests.helpers.assignment import CROWD, OBJECT, PADDING, objects, per_anchor, targets_of, without_rows
from tests.helpers.memory import LargestTensor

# Whole pixels make centres, distances and areas exact in float32, so ties do not depend on the order of operations.
GRIDS = AnchorGenerator(strides=(16, 64), sizes=(24, 90), rounding="torchvision")(64, 48)
LEVELS = [level.reshape(-1, 4).tolist() for level in GRIDS]
NUM_ANCHORS = sum(map(len, LEVELS))


def box_area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def intersection_area(box, other):
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(0, width) * max(0, height)


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def atss_by_loop(levels, rows, anchors_per_level, ignore_ioa):
    """Algorithm 1 of the paper for one image, with crowd regions; None if the result depends on rounding."""
    anchors = [anchor for level in levels for anchor in level]
    claims = {}  # anchor -> (IoU, -row) of the objects that claim it
    for row, (box, kind) in enumerate(rows):
        if kind != OBJECT:
            continue
        x, y = centre(box)
        candidates, first = [], 0
        for level in levels:
            distances = [(cx - x) ** 2 + (cy - y) ** 2 for cx, cy in map(centre, level)]
            nearest = sorted(range(len(level)), key=lambda i, far=distances: (far[i], i))[:anchors_per_level]
            candidates += [first + i for i in nearest]
            first += len(level)
        intersection = {i: intersection_area(box, anchors[i]) for i in candidates}
        iou = {i: x / (box_area(box) + box_area(anchors[i]) - x) for i, x in intersection.items()}
        threshold = statistics.mean(iou.values()) + statistics.stdev(iou.values())
        for i in candidates:
            if abs(iou[i] - threshold) < 1e-5:
                return None
            cx, cy = centre(anchors[i])
            if iou[i] > threshold and box[0] < cx < box[2] and box[1] < cy < box[3]:
                claims.setdefault(i, []).append((iou[i], -row))
    crowds = [box for box, kind in rows if kind == CROWD and ignore_ioa > 0]
    result = []
    for i, anchor in enumerate(anchors):
        in_crowd = any(intersection_area(box, anchor) / box_area(anchor) >= ignore_ioa for box in crowds)
        result.append(-max(claims[i])[1] if i in claims else "ignored" if in_crowd else "negative")
    return result


@st.composite
def some_boxes(draw):
    """Boxes in quarters of a pixel: equal to an anchor, tiny, far outside, or anywhere."""
    kind = draw(st.sampled_from(["anchor", "tiny", "outside", "any", "any"]))
    if kind == "anchor":
        return tuple(draw(st.sampled_from(LEVELS[0] + LEVELS[1])))
    if kind == "outside":
        return (500.0, 500.0, 510.0, 500.0 + draw(st.integers(1, 40)))
    x, y = draw(st.integers(-100, 250)) / 4, draw(st.integers(-100, 250)) / 4
    side = st.integers(1, 12 if kind == "tiny" else 300)
    return (x, y, x + draw(side) / 4, y + draw(side) / 4)


@st.composite
def some_rows(draw):
    """Rows of one image: few or many, with repeated boxes, and padding and crowds in between."""
    boxes = draw(st.lists(some_boxes(), min_size=1, max_size=4))
    kinds = st.sampled_from([OBJECT, OBJECT, OBJECT, CROWD, PADDING])
    kinds = draw(st.lists(kinds, max_size=draw(st.sampled_from([0, 1, 3, 9]))))
    some = st.one_of(st.sampled_from(boxes), some_boxes())
    return [((0, 0, 1, 1) if kind == PADDING else draw(some), kind) for kind in kinds]


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """Make the chunks of boxes so small that every test needs several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atss, "BOXES_AT_ONCE", 4)
        yield


@settings(deadline=None, max_examples=60)
@given(
    st.lists(some_rows(), min_size=1, max_size=3),
    st.sampled_from([1, 5, 9, 13, 27]),
    st.sampled_from([0, 0.25, 0.5]),
)
def test_assignment_equals_a_loop_over_objects(images, anchors_per_level, ignore_ioa):
    expected = [atss_by_loop(LEVELS, rows, anchors_per_level, ignore_ioa) for rows in images]
    assume(None not in expected)
    assignment = assign_atss(GRIDS, targets_of(*images), anchors_per_level=anchors_per_level, ignore_ioa=ignore_ioa)
    assert [per_anchor(assignment, image) for image in range(len(images))] == expected


@pytest.mark.parametrize("anchors_per_level", [9, 27, 81])
@pytest.mark.parametrize("seed", range(3))
def test_assignment_on_default_anchors_equals_a_loop_over_objects(seed, anchors_per_level):
    # Compare with a loop over objects in torch. The centres of these boxes are never equally far from two cells.
    generator = torch.Generator().manual_seed(seed)
    grids = AnchorGenerator()(256, 320)
    levels = [level.view(-1, 4) for level in grids]
    anchors = torch.cat(levels)
    corner = torch.rand(30, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + 8 + torch.rand(30, 2, generator=generator) ** 2 * 200], dim=1)
    centres, box_centres = ((x[:, :2] + x[:, 2:]) / 2 for x in (anchors, boxes))
    iou = torchvision.ops.box_iou(boxes, anchors)
    claimed = torch.zeros_like(iou)
    for row, (box, overlaps) in enumerate(zip(boxes, iou, strict=True)):
        distance = torch.cdist(box_centres[row : row + 1].double(), centres.double())[0]
        # Rounded corners give the anchors of a cell slightly different centres.
        distance = (distance * 1000).round()
        first, index = 0, []
        for level in levels:
            nearest = distance[first : first + len(level)].sort(stable=True).indices[:anchors_per_level]
            index.append(first + nearest)
            first += len(level)
        index = torch.cat(index)
        enough = overlaps[index] >= overlaps[index].mean() + overlaps[index].std()
        inside = ((centres[index] > box[:2]) & (centres[index] < box[2:])).all(1)
        claimed[row, index[enough & inside]] = overlaps[index[enough & inside]]
    best, index = claimed.max(0)
    assignment = assign_atss(grids, objects(*boxes.tolist()), anchors_per_level=anchors_per_level)
    assert torch.equal(assignment.positive[0], best > 0)
    assert torch.equal(assignment.negative[0], best == 0)
    assert torch.equal(assignment.gt_index[0][best > 0], index[best > 0])
    assert (best > 0).sum() > 30


def test_threshold_by_hand():
    # Two levels of two cells with one anchor each, all of height 10, on one line; the object is 10 x 10 around (0, 0).
    first = torch.tensor([[-5.0, -5.0, 5.0, 5.0], [-3.0, -5.0, 7.0, 5.0]]).view(1, 2, 1, 4)
    second = torch.tensor([[-9.0, -5.0, 11.0, 5.0], [31.0, -5.0, 51.0, 5.0]]).view(1, 2, 1, 4)
    # IoU: 1, 80 / 120 = 2 / 3, 100 / 200 = 1 / 2, 0. Mean 13 / 24, sample deviation 0.4167, threshold 0.958.
    assert_close(torch.tensor([1, 2 / 3, 1 / 2, 0]).std(), torch.tensor(0.4167), atol=1e-4, rtol=0)
    box = (-5, -5, 5, 5)
    n = "negative"
    assert per_anchor(assign_atss([first, second], objects(box), anchors_per_level=2)) == [0, n, n, n]
    # One candidate per level: IoU 1 and 1 / 2. Mean 3 / 4, deviation 0.354: the threshold is above both.
    assert per_anchor(assign_atss([first, second], objects(box), anchors_per_level=1)) == [n, n, n, n]
    # On one level: mean 5 / 6, deviation 0.236. The IoU of a single candidate is its own threshold.
    assert per_anchor(assign_atss([first], objects(box), anchors_per_level=2)) == [n, n]
    assert per_anchor(assign_atss([first], objects(box), anchors_per_level=1)) == [0, n]


def test_anchor_claimed_by_several_objects_goes_to_the_first_with_the_largest_iou():
    anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).view(1, 1, 1, 4)
    loose, close = (0, 0, 10, 16), (0, 0, 10, 12)
    assert per_anchor(assign_atss([anchor], objects(loose, close, close))) == [1]
    assert per_anchor(assign_atss([anchor], objects(loose, *[loose] * 4, close, close))) == [5]  # in different chunks
    assert per_anchor(assign_atss([anchor], objects(close, *[loose] * 4, close))) == [0]


def test_centre_of_a_positive_is_inside_its_object():
    anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).view(1, 1, 1, 4)  # the only candidate, around (5, 5)
    # In the last two cases, the centre is 0.005 and 0.02 pixels inside; the minimum is 0.01.
    outside = [(0, 0, 5, 10), (0, 0, 4, 10), (5, 5, 9, 9), (0, 0, 5.005, 10)]
    for box, inside in [((0, 0, 6, 10), True), *((box, False) for box in outside), ((0, 0, 5.02, 10), True)]:
        assert per_anchor(assign_atss([anchor], objects(box))) == [0 if inside else "negative"]


def test_candidates_with_equal_iou_are_all_positive():
    # Four cells around the object have one anchor each: a mean rounded up must not exclude them all.
    anchors = torch.tensor([[x - 12.3, y - 12.3, x + 12.3, y + 12.3] for y in (0, 8) for x in (0, 8)]).view(2, 2, 1, 4)
    assert per_anchor(assign_atss([anchors], objects((-1.7, -1.7, 9.7, 9.7)))) == [0, 0, 0, 0]


@pytest.mark.parametrize("num_rows", [0, 1, 6])
def test_without_objects_every_anchor_is_negative(num_rows):
    targets = targets_of([((0, 0, 1, 1), PADDING)] * num_rows, []) if num_rows else without_rows(2)
    assignment = assign_atss(GRIDS, targets)
    assert assignment.positive.shape == assignment.negative.shape == assignment.gt_index.shape == (2, NUM_ANCHORS)
    assert assignment.negative.all() and not assignment.positive.any()


def test_every_gt_index_is_a_valid_row():
    """Losses gather boxes for all anchors and mask afterwards."""
    targets = targets_of([((4, 4, 30, 40), OBJECT)] * 6, [])
    index = assign_atss(GRIDS, targets).gt_index
    assert index.min() >= 0 and index.max() < targets.boxes.shape[1]


def test_assignment_does_not_synchronise_the_device(host_reads):
    targets = targets_of([((x, 0, x + 20, 30), OBJECT) for x in range(6)] + [((0, 0, 40, 40), CROWD)], [])
    with host_reads() as reads:
        assign_atss(GRIDS, targets)
    assert reads == []


def test_crowd_coverage_is_not_computed_without_crowds_or_with_ignore_ioa_zero(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(atss, "assign", never)
    targets = objects((4, 4, 30, 40))._replace(has_crowd=False)
    assert assign_atss(GRIDS, targets).positive.any()
    assign_atss(GRIDS, targets._replace(has_crowd=True), ignore_ioa=0)


def test_memory_is_bounded_for_thousands_of_boxes(monkeypatch):
    monkeypatch.setattr(atss, "BOXES_AT_ONCE", 64)
    grids = AnchorGenerator()(128, 128)
    targets = objects(*([(10, 10, 60, 70), (3, 5, 100, 30)] * 1000))._replace(has_crowd=False)
    count = sum(level[..., 0].numel() for level in grids)
    with LargestTensor() as tensors:
        assign_atss(grids, targets)
    # One value per anchor, per box, or per candidate of the boxes processed together.
    assert tensors.largest <= max(count * 4 * 4, 2000 * 4 * 4, 64 * 5 * 9 * 4 * 4) < 2000 * count * 4 / 100
