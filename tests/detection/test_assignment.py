"""Compare `assign` and `assign_reference` with a loop over anchors, torchvision, and hand-computed cases."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher

from retinanet.detection import assignment as assignment_module
from retinanet.detection import grid_iou
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.assignment import assign, assign_reference
from tests.helpers.assignment import CROWD, OBJECT, PADDING, objects, per_anchor, targets_of
from tests.helpers.assignment_by_loop import assign_by_loop, match_unmatched_by_loop

# Whole pixels make every area below exact in float32, so ties do not depend on the order of operations.
GRIDS = AnchorGenerator(strides=(16, 64), sizes=(24, 90), rounding="torchvision")(64, 48)
ANCHORS = torch.cat([level.view(-1, 4) for level in GRIDS])
BOXES_AT_ONCE = 8
RULES = [assign, assign_reference]
each_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """Make the kernel's chunks so small that every test needs several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(grid_iou.PAIRS_AT_ONCE, "cpu", BOXES_AT_ONCE * len(ANCHORS))
        patch.setattr(grid_iou, "BOXES_AT_ONCE", BOXES_AT_ONCE)
        patch.setattr(assignment_module, "OBJECTS_AT_ONCE", BOXES_AT_ONCE)
        yield


def match(rule, anchors, targets, **settings):
    """Apply a rule with arbitrary boxes (A, 4) as anchors."""
    return rule([anchors.view(1, 1, -1, 4)], targets, **settings)


@st.composite
def some_boxes(draw):
    """Boxes in quarters of a pixel: equal to an anchor, tiny, huge, far outside, or anywhere."""
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
    """Rows of one image: few or many, with repeated boxes, and padding and crowds in between."""
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
    st.booleans(),
    st.sampled_from([0, 0.25, 0.5, 1]),
)
def test_both_rules_equal_a_loop_over_anchors(images, ious, low_quality_matches, match_every_object, ignore_ioa):
    fg_iou, bg_iou = ious
    arguments = dict(fg_iou=fg_iou, bg_iou=bg_iou, low_quality_matches=low_quality_matches, ignore_ioa=ignore_ioa)
    assignments = [
        rule(GRIDS, targets_of(*images), match_every_object=match_every_object, **arguments) for rule in RULES
    ]
    for image, rows in enumerate(images):
        expected = assign_by_loop(ANCHORS.tolist(), rows, fg_iou, bg_iou, low_quality_matches, ignore_ioa)
        if match_every_object:
            expected = match_unmatched_by_loop(GRIDS, rows, expected)
        for assignment in assignments:
            assert per_anchor(assignment, image) == expected


@each_rule
@pytest.mark.parametrize("low_quality_matches", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_assignment_equals_torchvisions_matcher(rule, seed, low_quality_matches):
    generator = torch.Generator().manual_seed(seed)
    grids = AnchorGenerator()(256, 320)
    anchors = torch.cat([level.view(-1, 4) for level in grids])
    corner = torch.rand(30, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + 2 + torch.rand(30, 2, generator=generator) ** 2 * 300], dim=1)
    iou = torchvision.ops.box_iou(boxes, anchors)
    assert (iou.amax(dim=1) > 0).all()  # torchvision lets a box that touches nothing claim every anchor
    matches = Matcher(0.5, 0.4, allow_low_quality_matches=low_quality_matches)(iou)

    assignment = rule(grids, objects(*boxes.tolist()), low_quality_matches=low_quality_matches)
    assert torch.equal(assignment.positive[0], matches >= 0)
    assert torch.equal(assignment.negative[0], matches == Matcher.BELOW_LOW_THRESHOLD)
    assert torch.equal(assignment.gt_index[0][matches >= 0], matches[matches >= 0])
    assert (matches >= 0).any() and (matches == Matcher.BETWEEN_THRESHOLDS).any()


@each_rule
def test_thresholds_by_hand(rule):
    anchors = torch.tensor([[0.0, 0.0, 10.0, width] for width in (10, 5, 4.5, 4, 3)])
    # The box is 10 x 10: the IoUs are 1, 0.5, 0.45, 0.4 and 0.3.
    assignment = match(rule, anchors, objects((0, 0, 10, 10)))
    assert per_anchor(assignment) == [0, 0, "ignored", "ignored", "negative"]


@each_rule
def test_anchor_gets_the_first_box_with_the_largest_iou(rule, monkeypatch):
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 16.0]])
    tall, square = (0, 0, 10, 16), (0, 0, 10, 10)
    assert per_anchor(match(rule, anchors, objects(tall, square, square, tall))) == [1, 0]
    monkeypatch.setitem(grid_iou.PAIRS_AT_ONCE, "cpu", BOXES_AT_ONCE * len(anchors))
    apart = [(900, 900, 910, 910)] * BOXES_AT_ONCE  # the tied boxes are in different chunks
    assert per_anchor(match(rule, anchors, objects(square, *apart, square))) == [0, 0]
    both = per_anchor(match(rule, anchors, objects(*apart, square, *apart, tall)))
    assert both == [BOXES_AT_ONCE, 2 * BOXES_AT_ONCE + 1]


@each_rule
def test_box_below_every_threshold_gets_its_closest_anchors_including_ties(rule):
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [0.0, 20.0, 10.0, 30.0]])
    between = (8, 0, 22, 10)  # IoU 20 / 220 with the first two, none with the third
    assert per_anchor(match(rule, anchors, objects(between))) == [0, 0, "negative"]
    assert per_anchor(match(rule, anchors, objects(between), low_quality_matches=False)) == ["negative"] * 3


@each_rule
def test_box_touching_no_anchor_claims_none(rule):
    far_away = objects((900, 900, 910, 910))
    assert per_anchor(rule(GRIDS, far_away)) == ["negative"] * len(ANCHORS)
    touching_an_edge = objects((ANCHORS[:, 2].max().item(), 0, 1000, 10))
    assert per_anchor(rule(GRIDS, touching_an_edge)) == ["negative"] * len(ANCHORS)


@each_rule
@pytest.mark.parametrize("num_rows", [1, BOXES_AT_ONCE + 1])
def test_without_objects_every_anchor_is_negative(rule, num_rows):
    targets = targets_of([((0, 0, 1, 1), PADDING)] * num_rows, [])
    assignment = rule(GRIDS, targets)
    assert assignment.positive.shape == (2, len(ANCHORS))
    assert assignment.negative.all() and not assignment.positive.any()


@each_rule
def test_boxes_of_one_image_do_not_affect_another(rule):
    full = [((0, 0, 24, 24), OBJECT), ((0, 0, 48, 64), CROWD)]
    assignment = rule(GRIDS, targets_of(full, []))
    assert per_anchor(assignment, 0) == per_anchor(rule(GRIDS, targets_of(full)))
    assert per_anchor(assignment, 1) == ["negative"] * len(ANCHORS)


@each_rule
def test_crowd_region_makes_overlapping_negatives_ignored(rule):
    # Anchors on an object, inside a crowd, half inside it, a quarter inside it, and between the thresholds.
    anchors = torch.tensor(
        [[0, 0, 10, 10], [40, 0, 50, 10], [55, 0, 65, 10], [57.5, 0, 67.5, 10], [0, 0, 10, 4.5]], dtype=torch.float32
    )
    targets = targets_of([((0, 0, 10, 10), OBJECT), ((-5, -5, 60, 20), CROWD)])
    ignored, negative = "ignored", "negative"
    assert per_anchor(match(rule, anchors, targets)) == [0, ignored, ignored, negative, ignored]
    assert per_anchor(match(rule, anchors, targets, ignore_ioa=0.25)) == [0, ignored, ignored, ignored, ignored]
    assert per_anchor(match(rule, anchors, targets, ignore_ioa=0)) == [0, negative, negative, negative, ignored]


@each_rule
def test_crowd_regions_are_compared_individually(rule):
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    halves = [((0, 0, 4, 10), CROWD), ((4, 0, 8, 10), CROWD)]  # 0.4 each, 0.8 together
    assert per_anchor(match(rule, anchors, targets_of(halves))) == ["negative"]


@each_rule
def test_low_quality_matches_ignore_crowds(rule):
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    small_object = ((1, 1, 3, 3), OBJECT)
    assert per_anchor(match(rule, anchors, targets_of([small_object, ((0, 0, 50, 50), CROWD)]))) == [0, "ignored"]
    small_crowd = ((1, 1, 3, 3), CROWD)  # not an object: it claims no anchor, and covers too little of any
    assert per_anchor(match(rule, anchors, targets_of([small_crowd]))) == ["negative", "negative"]


def without_anchor(assignment, num_objects):
    """Objects of the first image that have no anchor."""
    return set(range(num_objects)) - set(per_anchor(assignment))


@each_rule
def test_object_can_lose_its_closest_anchor_to_a_neighbour(rule):
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    large, small = (0, 0, 10, 10), (0, 0, 10, 4)
    # The IoUs are 1 and 0.9 with the large object, 4 / 10 and 4 / 9 with the small one.
    assert per_anchor(match(rule, anchors, objects(large, small))) == [0, 0]
    assert per_anchor(match(rule, anchors, objects(large, small), match_every_object=True)) == [0, 1]
    assert per_anchor(match(rule, anchors, objects(small, large), match_every_object=True)) == [1, 0]
    assert per_anchor(match(rule, anchors[:1], objects(large, small), match_every_object=True)) == [0]


@each_rule
def test_equal_objects_share_the_anchors(rule):
    anchors = torch.tensor([[0.0, 0.0, 10.0, height] for height in (10, 9, 8, 7)])
    three = objects(*[(0, 0, 10, 10)] * 3)
    assert per_anchor(match(rule, anchors, three)) == [0, 0, 0, 0]
    assert per_anchor(match(rule, anchors, three, match_every_object=True)) == [0, 1, 2, 0]


@each_rule
def test_unmatched_object_takes_a_negative_or_ignored_anchor(rule):
    # IoUs with the first object: 1, 0.45 (ignored), 0.2 (negative); with the second, equal one, the same.
    anchors = torch.tensor([[0.0, 0.0, 10.0, height] for height in (10, 4.5, 2)])
    twice, thrice = objects(*[(0, 0, 10, 10)] * 2), objects(*[(0, 0, 10, 10)] * 3)
    assert per_anchor(match(rule, anchors, twice)) == [0, "ignored", "negative"]
    assert per_anchor(match(rule, anchors, twice, match_every_object=True)) == [0, 1, "negative"]
    assert per_anchor(match(rule, anchors, thrice, match_every_object=True)) == [0, 1, 2]


@each_rule
def test_without_low_quality_matches_an_unmatched_object_gets_one_anchor(rule):
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    between = objects((8, 0, 22, 10))  # equally far from both
    settings = dict(low_quality_matches=False, match_every_object=True)
    assert per_anchor(match(rule, anchors, between, **settings)) == [0, "negative"]


@pytest.mark.parametrize("seed", range(4))
def test_every_object_of_a_dense_scene_gets_an_anchor(seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(150, 2, generator=generator) * 200
    sizes = torch.exp(torch.rand(150, 2, generator=generator) * 3.5 + 1.5)  # 4 to 148 pixels
    targets = objects(*torch.cat([corner, corner + sizes], dim=1).tolist())
    grids = AnchorGenerator()(256, 320)
    plain = assign(grids, targets)
    assert len(without_anchor(plain, 150)) >= 10
    covered = assign(grids, targets, match_every_object=True)
    assert without_anchor(covered, 150) == set()
    # One anchor changes for each object that had none; all the other anchors keep their match.
    assert (per_anchor(plain) != per_anchor(covered)) and sum(
        one != other for one, other in zip(per_anchor(plain), per_anchor(covered), strict=True)
    ) == len(without_anchor(plain, 150))


def test_matching_every_object_does_not_synchronise_the_device(host_reads):
    targets = targets_of([((x, 0, x + 20, 30), OBJECT) for x in range(6)] + [((0, 0, 40, 40), CROWD)], [])
    with host_reads() as reads:
        assign(GRIDS, targets, match_every_object=True)
    assert reads == []
