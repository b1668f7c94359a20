import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.detection.nms import soft_nms_by_group
from retinanet.detection.postprocess import Postprocess
from retinanet.structures import HeadOutputs


def soft_nms(boxes, scores, groups=None, *, method="linear", max_iou=0.3, sigma=0.5, min_score=0.0, max_kept=100):
    return soft_nms_by_group(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.zeros(len(boxes), dtype=torch.int64) if groups is None else torch.tensor(groups, dtype=torch.int64),
        method=method,
        max_iou=max_iou,
        sigma=sigma,
        min_score=min_score,
        max_kept=max_kept,
    )


# The second box shares 50 of its 100 pixels with the first: the IoU is 50 / 150 = 1/3. The third is apart from both.
BOXES = [[0, 0, 10, 10], [5, 0, 15, 10], [100, 0, 110, 10]]


@pytest.mark.parametrize(
    ("method", "max_iou", "expected"),
    [
        ("linear", 0.3, 0.6 * (1 - 1 / 3)),
        ("linear", 0.4, 0.6),
        ("gaussian", 0.4, 0.6 * math.exp(-((1 / 3) ** 2) / 0.5)),
    ],
)
def test_score_of_an_overlapping_box_is_lowered_by_hand(method, max_iou, expected):
    kept, scores = soft_nms(BOXES, [0.9, 0.6, 0.5], method=method, max_iou=max_iou)
    assert sorted(kept.tolist()) == [0, 1, 2]
    by_box = dict(zip(kept.tolist(), scores.tolist(), strict=True))
    assert by_box == {0: pytest.approx(0.9), 1: pytest.approx(expected), 2: pytest.approx(0.5)}
    assert kept.tolist() == [0, 2, 1] if expected < 0.5 else [0, 1, 2]


def test_boxes_of_other_groups_do_not_lower_scores():
    kept, scores = soft_nms(BOXES, [0.9, 0.6, 0.5], [0, 1, 0])
    assert kept.tolist() == [0, 1, 2]
    assert scores.tolist() == pytest.approx([0.9, 0.6, 0.5])


def test_lowered_scores_are_compared_with_the_minimum():
    assert soft_nms(BOXES, [0.9, 0.6, 0.5], min_score=0.39)[0].tolist() == [0, 2, 1]  # 0.6 * 2/3 = 0.4
    assert soft_nms(BOXES, [0.9, 0.6, 0.5], min_score=0.41)[0].tolist() == [0, 2]


def test_no_boxes():
    kept, scores = soft_nms([], [])
    assert kept.shape == scores.shape == (0,)


def soft_nms_by_loop(boxes, scores, groups, method, max_iou, sigma, min_score):
    """Figure 2 of Bodla et al. (2017): move the best box to the result, and lower the scores of the others."""
    left, result = dict(enumerate(scores)), []
    while left:
        best = max(left, key=lambda index: (left[index], -index))
        score = left.pop(best)
        if score <= min_score:
            break
        result.append((best, score))
        for index in left:
            shared = iou(boxes[best], boxes[index]) if groups[best] == groups[index] else 0.0
            if method == "gaussian":
                left[index] *= math.exp(-(shared**2) / sigma)
            elif shared > max_iou:
                left[index] *= 1 - shared
    return result


def iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@st.composite
def some_boxes(draw):
    """Boxes with small integer coordinates; no two scores are so close that rounding could change their order."""
    place, side = st.integers(-5, 12), st.integers(1, 12)
    rows = draw(st.lists(st.tuples(place, place, side, side, st.integers(0, 2)), max_size=25))
    scores = draw(st.permutations([(index + 1) / (len(rows) + 1) for index in range(len(rows))]))
    return [[x, y, x + w, y + h] for x, y, w, h, _ in rows], scores, [row[4] for row in rows]


@settings(deadline=None, max_examples=50)
@given(some_boxes(), st.sampled_from(["linear", "gaussian"]), st.sampled_from([0.0, 0.1, 0.3]))
def test_soft_nms_equals_a_loop_over_boxes(drawn, method, min_score):
    boxes, scores, groups = drawn
    exact = torch.tensor(scores, dtype=torch.float32).tolist()
    expected = soft_nms_by_loop(boxes, exact, groups, method, 0.3, 0.5, min_score)
    kept, found = soft_nms(boxes, scores, groups, method=method, min_score=min_score)
    # Lowered scores may tie, in which case rounding decides the order.
    assert found.tolist() == pytest.approx([score for _, score in expected], abs=1e-6)
    if len({round(score, 5) for _, score in expected}) == len(expected):
        assert kept.tolist() == [index for index, _ in expected]


def test_a_limit_keeps_the_same_best_boxes():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 5 + torch.rand(300, 2, generator=generator) * 40], dim=1).tolist()
    scores = torch.rand(300, generator=generator).tolist()
    all_kept, all_scores = soft_nms(boxes, scores, max_kept=300)
    kept, best_scores = soft_nms(boxes, scores, max_kept=20)
    assert len(kept) == 20
    assert torch.equal(kept, all_kept[:20]) and torch.equal(best_scores, all_scores[:20])
    assert (all_scores.diff() <= 0).all()


def outputs_of(*logits):
    """Anchors of 10 pixels, each shifted by 5 pixels, which are the boxes, with one class."""
    anchors = torch.tensor([[5.0 * index, 0.0, 5.0 * index + 10, 10.0] for index in range(len(logits))])
    count = len(logits)
    return HeadOutputs([torch.tensor(logits).view(1, count, 1)], [torch.zeros(1, count, 4)], [anchors])


def test_postprocessing_lowers_scores_instead_of_removing_boxes():
    """Boxes 1 and 2 have an IoU of 1/3 with their neighbours; sigmoid(log 9) = 0.9 and sigmoid(log 4) = 0.8."""
    outputs, size = outputs_of(math.log(9), math.log(4)), torch.tensor([[20, 40]])
    (hard,) = Postprocess(nms_iou=0.3)(outputs, size, size * 2)
    assert hard.scores.tolist() == pytest.approx([0.9])
    (soft,) = Postprocess(nms_iou=0.3, soft_nms="linear")(outputs, size, size * 2)
    assert soft.scores.tolist() == pytest.approx([0.9, 0.8 * 2 / 3])
    assert soft.boxes.tolist() == [[0, 0, 20, 20], [10, 0, 30, 20]]
    (gaussian,) = Postprocess(soft_nms="gaussian", soft_nms_sigma=0.1)(outputs, size, size)
    assert gaussian.scores.tolist() == pytest.approx([0.9, 0.8 * math.exp(-(1 / 9) / 0.1)])
    (best,) = Postprocess(nms_iou=0.3, soft_nms="linear", max_detections=1)(outputs, size, size)
    assert len(best) == 1
