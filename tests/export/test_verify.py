"""The verification accepts an export that equals the predictor, and rejects every fault planted in one."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from retinanet.export.verify import ExportRejected, candidate_detector, verify_ap, verify_detections
from retinanet.export.write import metadata_of, program_of
from retinanet.formats.dataset import Dataset
from retinanet.formats.images.windows import DecodedImage
from retinanet.structures import Detections
from tests.helpers.exports import eager, noise_images, small_predictor

SHAPES = ((64, 64), (64, 90), (130, 64), (200, 300), (60, 80), (31, 30), (64, 64))


@pytest.fixture(scope="module")
def predictor():
    return small_predictor(thresholds=(0.3, 0.2, 0.25))


@pytest.fixture(scope="module")
def images():
    return noise_images(*SHAPES)


def verify(predictor, images, run=None, *, nms="outside", metadata=None):
    run = run or eager(program_of(predictor, nms=nms))
    metadata = metadata or metadata_of(predictor, checkpoint="", nms=nms)
    return verify_detections(run, metadata, predictor, images)


@pytest.mark.parametrize("nms", ["inside", "outside"])
def test_program_equals_the_predictor(predictor, images, nms):
    verified = verify(predictor, images, nms=nms)
    assert len(verified.counts) == len(SHAPES) + 1 and max(verified.counts) > 20
    assert verified.max_score_difference < 1e-5 and verified.max_box_difference < 1e-3


@pytest.mark.parametrize("nms", ["inside", "outside"])
def test_program_equals_the_predictor_for_many_objects(images, nms):
    predictor = small_predictor("postprocess.min_score=0.001", "postprocess.max_detections=2000")
    verified = verify(predictor, images[:3], nms=nms)
    assert max(verified.counts) > 500 and verified.max_box_difference < 1e-3


def changed(predictor, change):
    """The program of a predictor whose network has been changed."""
    program = deepcopy(program_of(predictor, nms="outside"))
    with torch.no_grad():
        change(program.network)
    return eager(program)


def wrong_mean(network):
    network.mean[:] = network.mean + 5  # of 255


def wrong_std(network):
    network.std[:] = network.std * 1.05


def on_inputs(change):
    """A fault that changes images and image_sizes before they reach the program."""
    return lambda run: lambda images, sizes: run(*change(images, sizes))


def on_outputs(change):
    """A fault that changes boxes, scores and labels."""
    return lambda run: lambda images, sizes: change(*run(images, sizes))


FAULTS = {
    "swapped channels": on_inputs(lambda images, sizes: (np.ascontiguousarray(images[:, ::-1]), sizes)),
    "padding not masked": on_inputs(lambda images, sizes: (images, np.full_like(sizes, images.shape[2:]))),
    "first image repeated": on_inputs(lambda images, sizes: (np.repeat(images[:1], len(images), 0), sizes)),
    "shifted boxes": on_outputs(lambda boxes, scores, labels: (boxes + np.float32(0.5), scores, labels)),
    "swapped axes": on_outputs(lambda boxes, scores, labels: (boxes[..., [1, 0, 3, 2]], scores, labels)),
    "lower scores": on_outputs(lambda boxes, scores, labels: (boxes, scores * np.float32(0.99), labels)),
    "wrong label order": on_outputs(lambda boxes, scores, labels: (boxes, scores, (labels + 1) % 3)),
    "nothing found": on_outputs(lambda boxes, scores, labels: (boxes * 0, scores * 0, labels)),
}


@pytest.mark.parametrize("fault", [wrong_mean, wrong_std])
def test_fault_in_the_network_is_caught(predictor, images, fault):
    with pytest.raises(ExportRejected, match=r"image \d: (cat|dog|fox) \d\.\d+ .* is missing"):
        verify(predictor, images, changed(predictor, fault))


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_inputs_or_outputs_is_caught(predictor, images, fault):
    with pytest.raises(ExportRejected):
        verify(predictor, images, FAULTS[fault](eager(program_of(predictor, nms="outside"))))


@pytest.mark.parametrize(
    "change",
    [
        {"shorter": 72},
        {"longer": 80},
        {"min_score": 0.4, "thresholds": None},
        {"thresholds": (0.2, 0.3, 0.25)},
        {"nms_iou": 0.6},
        {"max_detections": 20},
    ],
    ids=str,
)
def test_fault_in_the_metadata_is_caught(predictor, images, change):
    metadata = metadata_of(predictor, checkpoint="", nms="outside").model_copy(update=change)
    with pytest.raises(ExportRejected):
        verify(predictor, images, metadata=metadata)


def test_detector_that_finds_nothing_is_not_verified(images):
    predictor = small_predictor("postprocess.min_score=0.9999")
    with pytest.raises(ExportRejected, match="finds nothing in the images, so nothing can be compared"):
        verify(predictor, images)


class FixedPredictor:
    """A predictor that finds the same objects in every image."""

    def __init__(self, boxes, scores, labels):
        self.found = Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels))

    def __call__(self, image):
        return self.found


@pytest.fixture
def fixed(predictor, monkeypatch):
    """Compare two lists of (box, score, label), for a 64 x 64 image, with the metadata of the predictor.

    The third list are the candidates that the NMS of the predictor has removed.
    """
    metadata = metadata_of(predictor, checkpoint="", nms="inside").model_copy(update={"thresholds": None})

    def compare(expected, found, removed=()):
        boxes, scores, labels = ([row[column] for row in found] for column in range(3))
        outputs = (np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels))

        def run(images, image_sizes):
            return [np.repeat(output[None], len(images), 0) for output in outputs]

        predictor = FixedPredictor(*([row[column] for row in expected] for column in range(3)))
        all_boxes, *others = (torch.tensor([row[column] for row in (*expected, *removed)]) for column in range(3))
        candidates = Detections(all_boxes, *others)
        monkeypatch.setattr(
            "retinanet.export.verify.candidate_detector", lambda predictor: lambda images, batch_size: [candidates]
        )
        return verify_detections(run, metadata, predictor, noise_images((64, 64)))

    return compare


CLEAR = [([float(x), 40.0, x + 5.0, 60.0], 0.9 - x / 100, 1) for x in range(0, 60, 6)]


def test_order_of_equal_scores_does_not_matter(fixed):
    first, second = ([0.0, 0.0, 20.0, 20.0], 0.7, 0), ([30.0, 0.0, 50.0, 20.0], 0.7, 0)
    assert fixed([*CLEAR, first, second], [second, first, *CLEAR]).max_score_difference < 1e-6


def test_near_ties_are_accepted(fixed):
    at_limit = ([0.0, 0.0, 20.0, 20.0], 0.0502, 0)  # min_score is 0.05
    fixed([*CLEAR, at_limit], CLEAR)
    one, other = ([0.0, 0.0, 20.0, 20.0], 0.7001, 0), ([2.0, 0.0, 22.0, 20.0], 0.7004, 0)  # either suppresses the other
    fixed([*CLEAR, one], [*CLEAR, other], [other])
    best, half = ([0.0, 0.0, 20.0, 20.0], 0.8, 0), ([0.0, 0.0, 20.0, 10.0], 0.6, 0)  # IoU 0.5, the limit of NMS
    fixed([*CLEAR, best, half], [*CLEAR, best])
    suppressed_by_half = ([0.0, 0.0, 20.0, 8.0], 0.5, 0)  # their IoU is 0.8; with the best box, it is only 0.4
    fixed([*CLEAR, best, half], [*CLEAR, best, suppressed_by_half], [suppressed_by_half])
    fixed([*CLEAR, best, suppressed_by_half], [*CLEAR, best, half], [half])


def test_box_that_is_no_candidate_of_the_predictor_is_no_near_tie(fixed):
    one, shifted = ([0.0, 0.0, 20.0, 20.0], 0.7001, 0), ([2.0, 0.0, 22.0, 20.0], 0.7001, 0)
    with pytest.raises(ExportRejected, match=r"\[2\.0, 0\.0, 22\.0, 20\.0\] is not expected"):
        fixed([*CLEAR, one], [*CLEAR, shifted])


def test_candidates_are_those_before_nms(predictor, images):
    for image in images[:2]:
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        (candidates,) = candidate_detector(predictor)([DecodedImage(pixels)], batch_size=1)
        kept = predictor(pixels)
        assert len(candidates) > 2 * len(kept) > 0
        rows = {tuple(row) for row in torch.cat([candidates.boxes, candidates.scores[:, None]], dim=1).tolist()}
        assert rows.issuperset(map(tuple, torch.cat([kept.boxes, kept.scores[:, None]], dim=1).tolist()))


@pytest.mark.parametrize(
    "found",
    [
        pytest.param([], id="missing"),
        pytest.param([([0.0, 0.0, 20.0, 20.0], 0.7, 1)], id="another label"),
        pytest.param([([0.0, 0.0, 20.2, 20.0], 0.7, 0)], id="another box"),
        pytest.param([([0.0, 0.0, 20.0, 20.0], 0.702, 0)], id="another score"),
        pytest.param([([0.0, 0.0, 20.0, 20.0], 0.7, 0)] * 2, id="twice"),
        pytest.param([([0.0, 0.0, 20.0, 16.0], 0.8, 0)], id="another box that would suppress it"),
    ],
)
def test_one_different_object_is_caught(fixed, found):
    with pytest.raises(ExportRejected, match=r"is missing|is not expected"):
        fixed([*CLEAR, ([0.0, 0.0, 20.0, 20.0], 0.7, 0)], [*CLEAR, *found])


def test_ap_of_the_export_is_compared(predictor, images, tmp_path):
    from PIL import Image

    found = [predictor(torch.from_numpy(image).permute(2, 0, 1).contiguous())[:5] for image in images]
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    boxes = np.concatenate([detections.boxes.numpy().astype(np.float64) for detections in found])
    boxes[:, 2:] -= boxes[:, :2]
    labels = np.concatenate([detections.labels.numpy() for detections in found])
    data = Dataset(
        paths=tuple(str(tmp_path / f"{index}.png") for index in range(len(images))),
        image_ids=tuple(range(1, len(images) + 1)),
        sizes=np.array([image.shape[:2] for image in images]),
        box_start=np.cumsum([0, *map(len, found)]),
        boxes_xywh=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        labels=labels,
        is_crowd=np.zeros(len(labels), bool),
        class_names=predictor.class_names,
        category_ids=predictor.category_ids,
    )
    metadata = metadata_of(predictor, checkpoint="", nms="outside")
    run = eager(program_of(predictor, nms="outside"))
    expected, exported = verify_ap(run, metadata, predictor, data)
    assert expected > 0.5 and exported == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ExportRejected, match=r"AP is 0\..* with the predictor; the tolerance is 0\.001"):
        verify_ap(FAULTS["wrong label order"](run), metadata, predictor, data)
