import math

import pytest
import torch
import torchvision
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from retinanet.config import PostprocessConfig
from retinanet.detection import postprocess
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.postprocess import Postprocess, build_postprocess
from retinanet.structures import HeadOutputs

NUM_CLASSES = 4
IMAGE_SIZES = torch.tensor([[128, 192], [100, 192], [128, 90]])
ORIGINAL_SIZES = torch.tensor([[128, 192], [250, 480], [427, 300]])


def random_outputs(seed, mean=-1.0, num_logits=NUM_CLASSES):
    generator = torch.Generator().manual_seed(seed)
    anchors = AnchorGenerator()(128, 192)
    counts = [level[..., 0].numel() for level in anchors]

    def normal(count, values):
        return torch.randn(len(IMAGE_SIZES), count, values, generator=generator)

    return HeadOutputs(
        class_logits=[mean + normal(count, num_logits) for count in counts],
        box_deltas=[0.3 * normal(count, 4) for count in counts],
        anchors=anchors,
    )


def assert_same_detections(detections, expected, **tolerance):
    for field in ("boxes", "scores", "labels"):
        assert_close(getattr(detections, field), getattr(expected, field), **tolerance)


def postprocess_by_loop(
    outputs, image, *, min_score, top_k, nms_iou, max_detections, background_logit=False, nms_across_classes=False
):
    """Reference for one image: the best pairs of each level, torchvision's NMS, then the best overall."""
    coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
    height, width = IMAGE_SIZES[image].tolist()
    candidates = []
    for logits, deltas, anchors in zip(outputs.class_logits, outputs.box_deltas, outputs.anchors, strict=True):
        scores = logits[image].softmax(1)[:, :NUM_CLASSES] if background_logit else logits[image].sigmoid()
        pairs = [(scores[a, k].item(), a, k) for a, k in torch.nonzero(scores > min_score).tolist()]
        for score, a, k in sorted(pairs, key=lambda pair: -pair[0])[:top_k]:
            (box,) = coder.decode_single(deltas[image, a : a + 1], anchors.view(-1, 4)[a : a + 1])
            box = torchvision.ops.clip_boxes_to_image(box, (height, width))
            if torchvision.ops.box_area(box) > 0:
                candidates.append((score, k, box))
    kept = []
    for classes in [range(NUM_CLASSES)] if nms_across_classes else [[k] for k in range(NUM_CLASSES)]:
        mine = [candidate for candidate in candidates if candidate[1] in classes]
        if mine:
            boxes, scores = torch.stack([box for *_, box in mine]), torch.tensor([score for score, *_ in mine])
            kept += [mine[i] for i in torchvision.ops.nms(boxes, scores, nms_iou).tolist()]
    original_height, original_width = ORIGINAL_SIZES[image].tolist()
    stretch = torch.tensor([original_width / width, original_height / height]).repeat(2)
    kept = sorted(kept, key=lambda detection: -detection[0])[:max_detections]
    return [(score, k, box * stretch) for score, k, box in kept]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "settings",
    [
        {"min_score": 0.5, "top_k": 1000, "nms_iou": 0.5, "max_detections": 1000},
        {"min_score": 0.05, "top_k": 90, "nms_iou": 0.5, "max_detections": 100},
        {"min_score": 0.6, "top_k": 7, "nms_iou": 0.2, "max_detections": 5},
        {"min_score": 0.05, "top_k": 90, "nms_iou": 0.5, "max_detections": 20, "nms_across_classes": True},
    ],
)
def test_detections_equal_those_of_a_loop(settings, seed, monkeypatch):
    outputs = random_outputs(seed)
    expected = [postprocess_by_loop(outputs, image, **settings) for image in range(len(IMAGE_SIZES))]
    for detections in expected:
        assert len(detections) > 4
        detections.sort(key=lambda detection: (-detection[0], detection[1]))
    for first_attempt in (1, 130, 1000):  # enough for some settings, too few for others
        monkeypatch.setattr(postprocess, "FIRST_ATTEMPT", first_attempt)
        results = Postprocess(**settings)(outputs, IMAGE_SIZES, ORIGINAL_SIZES)
        for result, detections in zip(results, expected, strict=True):
            # Equal scores may come in either order.
            order = sorted(range(len(result.scores)), key=lambda i: (-result.scores[i].item(), result.labels[i].item()))
            assert result.labels[order].tolist() == [label for _, label, _ in detections]
            assert_close(result.scores[order], torch.tensor([score for score, _, _ in detections]))
            assert_close(result.boxes[order], torch.stack([box for _, _, box in detections]), rtol=1e-5, atol=1e-3)
        if settings["max_detections"] < 1000:
            assert {len(result.scores) for result in results} == {settings["max_detections"]}


@pytest.mark.parametrize(
    "settings",
    [
        {"min_score": 0.2, "top_k": 1000, "nms_iou": 0.5, "max_detections": 1000},
        {"min_score": 0.05, "top_k": 7, "nms_iou": 0.5, "max_detections": 5},
    ],
)
def test_softmax_detections_equal_those_of_a_loop(settings):
    outputs = random_outputs(0, num_logits=NUM_CLASSES + 1)
    for logits in outputs.class_logits:
        # Adding a constant to all logits of an anchor changes no probability, only which anchor has the largest logit.
        logits += 20 * torch.randn(*logits.shape[:2], 1, generator=torch.Generator().manual_seed(1))
    settings = {**settings, "background_logit": True}
    for image, result in enumerate(Postprocess(**settings)(outputs, IMAGE_SIZES, ORIGINAL_SIZES)):
        expected = postprocess_by_loop(outputs, image, **settings)
        assert len(expected) > 4
        assert_close(result.scores, torch.tensor([score for score, _, _ in expected]), rtol=1e-4, atol=1e-6)
        assert result.labels.tolist() == [label for _, label, _ in expected]
        assert_close(result.boxes, torch.stack([box for _, _, box in expected]), rtol=1e-5, atol=1e-3)


def test_background_is_never_detected():
    # e^logit is 6, 3 and 1 for the classes and 10 for background, 20 in total: the scores are 0.3, 0.15 and 0.05.
    outputs = one_anchor(math.log(6), math.log(3), 0.0, math.log(10))
    sizes = torch.tensor([[100, 100]])
    (result,) = Postprocess(min_score=0.1, background_logit=True)(outputs, sizes, sizes)
    assert_close(result.scores, torch.tensor([0.3, 0.15]))
    assert result.labels.tolist() == [0, 1]


def test_config_sets_the_postprocessing():
    settings = {"min_score": 0.3, "top_k": 7, "nms_iou": 0.2, "nms_across_classes": True, "max_detections": 5}
    settings |= {"soft_nms": "linear", "soft_nms_sigma": 0.1}
    cfg = PostprocessConfig(**settings)
    for background_logit in (False, True):
        built = build_postprocess(cfg, background_logit=background_logit)
        assert vars(built) == {**settings, "background_logit": background_logit}


def one_anchor(*logits, anchor=(10.0, 20.0, 50.0, 40.0), deltas=(0.0, 0.0, 0.0, 0.0)):
    return HeadOutputs([torch.tensor([[logits]])], [torch.tensor([[deltas]])], [torch.tensor([anchor])])


def test_one_anchor_by_hand():
    # 40 x 20 around (30, 30), shifted by a quarter of its width and doubled in height: 40 x 40 around (40, 30)
    outputs = one_anchor(math.log(3), -5.0, 0.0, deltas=(0.25, 0.0, 0.0, math.log(2)))
    (result,) = Postprocess()(outputs, torch.tensor([[100, 200]]), torch.tensor([[300, 400]]))
    # Height is scaled by 3 and width by 2. Two classes pass with the same box; classes do not suppress each other.
    assert_close(result.boxes, torch.tensor([[40.0, 30.0, 120.0, 150.0]]).repeat(2, 1))
    assert_close(result.scores, torch.tensor([0.75, 0.5]))
    assert result.labels.tolist() == [0, 2]


def test_nms_across_classes_keeps_only_the_best_class_of_a_box():
    outputs = one_anchor(0.0, math.log(3), -5.0)  # scores 0.5, 0.75 and 0.007 of one box
    sizes = torch.tensor([[100, 200]])
    (result,) = Postprocess(nms_across_classes=True)(outputs, sizes, sizes)
    assert result.labels.tolist() == [1]
    assert_close(result.scores, torch.tensor([0.75]))


def test_boxes_are_clipped_to_the_image_not_to_the_padding():
    outputs = one_anchor(2.0, anchor=(-30.0, 20.0, 500.0, 400.0))
    (result,) = Postprocess()(outputs, torch.tensor([[100, 200]]), torch.tensor([[50, 100]]))
    assert_close(result.boxes, torch.tensor([[0.0, 10.0, 100.0, 50.0]]))


@pytest.mark.parametrize(
    "anchor",
    [
        (210.0, 20.0, 250.0, 60.0),  # right of the image, clipped to a vertical line
        (20.0, 100.0, 60.0, 140.0),  # touches its lower edge
        (-50.0, 20.0, 0.0, 60.0),  # touches its left edge
        (220.0, 120.0, 250.0, 160.0),  # clipped to a point
    ],
)
def test_boxes_in_the_padding_are_removed(anchor):
    outputs = one_anchor(2.0, anchor=anchor)
    (result,) = Postprocess()(outputs, torch.tensor([[100, 200]]), torch.tensor([[50, 100]]))
    assert len(result) == 0
    (result,) = Postprocess()(outputs, torch.tensor([[101, 201]]), torch.tensor([[50, 100]]))  # larger image
    assert len(result) == (anchor == (20.0, 100.0, 60.0, 140.0))


def test_boxes_in_the_padding_do_not_displace_other_detections():
    """The anchor in the padding has the highest score, and one detection is allowed."""
    boxes = torch.tensor([[210.0, 20.0, 250.0, 60.0], [10.0, 10.0, 50.0, 50.0]])
    outputs = HeadOutputs([torch.tensor([[[3.0], [2.0]]])], [torch.zeros(1, 2, 4)], [boxes])
    sizes = torch.tensor([[100, 200]])
    (result,) = Postprocess(max_detections=1)(outputs, sizes, sizes)
    assert_close(result.boxes, boxes[1:])


def test_score_must_exceed_min_score():
    sizes = torch.tensor([[100, 200]])
    assert len(Postprocess(min_score=0.5)(one_anchor(0.0), sizes, sizes)[0].scores) == 0
    assert len(Postprocess(min_score=0.49)(one_anchor(0.0), sizes, sizes)[0].scores) == 1


def test_images_without_detections_give_empty_tensors():
    outputs = random_outputs(0)
    for logits in outputs.class_logits:
        logits[1] = -20
    first, second, third = Postprocess()(outputs, IMAGE_SIZES, ORIGINAL_SIZES)
    assert second.boxes.shape == (0, 4) and second.scores.shape == second.labels.shape == (0,)
    assert len(first.scores) == len(third.scores) == 100
    for result in Postprocess(min_score=0.9999)(random_outputs(0, mean=-9.0), IMAGE_SIZES, ORIGINAL_SIZES):
        assert result.boxes.shape == (0, 4)
        assert result.labels.dtype == torch.int64 and result.scores.dtype == torch.float32


def test_images_do_not_affect_each_other():
    outputs = random_outputs(4)
    together = Postprocess()(outputs, IMAGE_SIZES, ORIGINAL_SIZES)
    for image, result in enumerate(together):
        mine = slice(image, image + 1)
        parts = [[level[mine] for level in part] for part in (outputs.class_logits, outputs.box_deltas)]
        (alone,) = Postprocess()(HeadOutputs(*parts, outputs.anchors), IMAGE_SIZES[mine], ORIGINAL_SIZES[mine])
        assert_same_detections(result, alone)


def test_detections_are_sorted_by_score():
    for result in Postprocess()(random_outputs(2), IMAGE_SIZES, ORIGINAL_SIZES):
        assert torch.equal(result.scores, result.scores.sort(descending=True).values)


def test_first_attempt_uses_the_best_candidates(monkeypatch):
    """Forty boxes side by side, so that none suppresses another and ten candidates are more than enough."""
    monkeypatch.setattr("retinanet.detection.postprocess.FIRST_ATTEMPT", 10)
    left = 20.0 * torch.arange(40)
    anchors = torch.stack([left, torch.zeros(40), left + 16, torch.full((40,), 16.0)], dim=1)
    logits = torch.linspace(-1, 1, 40)
    outputs = HeadOutputs([logits.view(1, 40, 1)], [torch.zeros(1, 40, 4)], [anchors.view(1, 40, 1, 4)])
    sizes = torch.tensor([[16, 800]])
    (result,) = Postprocess(max_detections=5)(outputs, sizes, sizes)
    assert_close(result.scores, logits.sigmoid().flip(0)[:5])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_outputs_are_decoded_in_float32(dtype):
    outputs = random_outputs(3)
    logits, deltas = ([level.to(dtype) for level in part] for part in (outputs.class_logits, outputs.box_deltas))
    low = HeadOutputs(logits, deltas, outputs.anchors)
    same = HeadOutputs([level.float() for level in logits], [level.float() for level in deltas], outputs.anchors)
    for result, expected in zip(
        Postprocess()(low, IMAGE_SIZES, ORIGINAL_SIZES), Postprocess()(same, IMAGE_SIZES, ORIGINAL_SIZES), strict=True
    ):
        assert result.boxes.dtype == torch.float32
        assert_same_detections(result, expected, rtol=0, atol=0)


def test_nan_box_is_dropped_and_others_are_kept():
    boxes = torch.tensor([[10.0, 10.0, 50.0, 50.0]]).repeat(4, 1)
    deltas = torch.zeros(1, 4, 4)
    deltas[0, 1] = torch.nan
    outputs = HeadOutputs([torch.tensor([[[2.0], [3.0], [1.0], [0.0]]])], [deltas], [boxes])
    sizes = torch.tensor([[100, 100]])
    (result,) = Postprocess()(outputs, sizes, sizes)
    assert_close(result.boxes, boxes[:1])
    assert_close(result.scores, torch.tensor([2.0]).sigmoid())


@pytest.mark.parametrize("background_logit", [False, True])
def test_quality_multiplies_scores_before_candidates_are_selected(background_logit):
    """Four distant anchors; without quality, the best two are 0 and 1."""
    logits = torch.tensor([[[3.0, -9.0], [2.0, -9.0], [1.0, -9.0], [0.0, -9.0]]])
    quality = torch.tensor([[-1.0, -3.0, 4.0, 4.0]])
    anchors = torch.tensor([[x, 0.0, x + 8, 8] for x in (0.0, 10.0, 20.0, 30.0)]).view(1, 4, 1, 4)
    outputs = HeadOutputs([logits], [torch.zeros(1, 4, 4)], [anchors], [quality])
    size = torch.tensor([[8, 40]])
    (found,) = Postprocess(top_k=2, min_score=0.0, background_logit=background_logit)(outputs, size, size)
    probability = (logits.softmax(-1) if background_logit else logits.sigmoid())[0, :, 0]
    expected, order = (probability * quality[0].sigmoid()).sort(descending=True)
    torch.testing.assert_close(found.scores, expected[:2])
    assert found.boxes[:, 0].tolist() == [10.0 * index for index in order[:2].tolist()]
