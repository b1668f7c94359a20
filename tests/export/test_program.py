"""The exported program; test_verify.py compares it with the predictor, and the tests of the formats its conversions."""

import pytest
import torch

from retinanet.export.write import program_of
from tests.helpers.exports import small_predictor


@pytest.fixture(scope="module")
def program():
    return program_of(small_predictor("postprocess.min_score=0.1"), nms="inside")


def test_every_candidate_takes_part_in_nms(program):
    """The 1500 best candidates are the same box, so an NMS of fewer would miss the other objects."""
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0]]).repeat(2, 1504, 1)
    boxes[:, 1500:] += torch.tensor([0.0, 30.0, 60.0, 90.0])[:, None]
    scores = torch.linspace(0.9, 0.5, 1504).repeat(2, 1)
    labels = torch.ones(2, 1504, dtype=torch.int64)
    labels[:, 1500] = 2  # the same box as the first, of another class
    boxes, scores, labels = program.suppress(boxes, scores, labels)
    assert boxes[0, :6, 0].tolist() == [0, 0, 30, 60, 90, 0] and (boxes[1] == boxes[0]).all()
    assert labels[1, :6].tolist() == [1, 2, 1, 1, 1, -1] and (scores[:, 5:] == -1).all()


def test_boxes_without_area_or_with_low_scores_are_removed_before_nms(program):
    boxes = torch.tensor([[0, 0, 0, 9], [0, 0, torch.nan, 9], [0, 0, 9, 9], [0, 0, 9, 8]])
    found, scores, labels = program.suppress(
        boxes[None], torch.tensor([[0.9, 0.8, 0.1, 0.6]]), torch.zeros(1, 4, dtype=torch.int64)
    )
    assert found[0].tolist() == [[0, 0, 9, 8], *[[0] * 4] * 3]
    assert scores[0, 1:].tolist() == [-1] * 3 and labels[0].tolist() == [0, -1, -1, -1]


def test_images_without_candidates_have_no_detections(program):
    boxes, scores, labels = program.suppress(
        torch.rand(2, 50, 4), torch.zeros(2, 50), torch.zeros(2, 50, dtype=torch.int64)
    )
    assert (boxes == 0).all() and (scores == -1).all() and (labels == -1).all()
