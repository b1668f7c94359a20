"""Scores for a model card, read from the files of a run."""

import json

import pytest

from retinanet.report.scores import ClassScores, scores_of_evaluation, scores_of_training

EVALUATION = {
    "AP": 0.5,
    "AP50": 0.75,
    "APs": None,
    "AR100": 0.6,
    "loss": 1.5,
    "AP/cat": 0.4,
    "AP/dog": None,
    "checkpoint": "/home/alice/run/checkpoints/best.pt",
    "annotations": ["/home/alice/cells/val.json", "/home/alice"],
    "overrides": [],
    "notes": ["postprocess.max_detections is 10 instead of 100, which lowers AP"],
    "classes": [
        {"name": "cat", "objects": 12, "AP": 0.4, "AP_interval": [0.3, 0.5], "AP50": 0.7, "operating_point": None},
        {"name": "dog", "objects": 0, "AP": None, "AP_interval": [None, None], "AP50": None, "operating_point": None},
    ],
    "intervals": {"AP": [0.45, 0.55], "AP50": [None, None]},
    "resamples": 1000,
}


def test_evaluation_with_intervals():
    scores = scores_of_evaluation(json.loads(json.dumps(EVALUATION)))
    assert scores.metrics == {"AP": 0.5, "AP50": 0.75, "AR100": 0.6}  # neither missing ones nor the loss
    assert scores.intervals == {"AP": (0.45, 0.55)}
    assert scores.classes == {
        "cat": ClassScores(ap=0.4, ap50=0.7, interval=(0.3, 0.5), num_objects=12),
        "dog": ClassScores(num_objects=0),
    }
    assert (scores.data, scores.resamples, scores.is_from_training) == (("val.json",), 1000, False)
    assert scores.notes == ("postprocess.max_detections is 10 instead of 100, which lowers AP",)


def test_evaluation_without_analysis():
    """As `retinanet.evaluate` writes it, and without intervals, as with `--bootstrap 0`."""
    values = {name: value for name, value in EVALUATION.items() if name not in ("classes", "intervals", "resamples")}
    scores = scores_of_evaluation(values)
    assert scores.classes == {"cat": ClassScores(ap=0.4), "dog": ClassScores()}
    assert (scores.intervals, scores.resamples) == ({}, None)


def test_training_log():
    scores = scores_of_training({"kind": "eval", "step": 4, "AP": 0.25, "AP50": None, "AP/cat": 0.5, "loss": 2.0})
    assert (scores.metrics, scores.classes) == ({"AP": 0.25}, {"cat": ClassScores(ap=0.5)})
    assert scores.is_from_training and scores.intervals == {} and scores.data == ()


@pytest.mark.parametrize(
    ("override", "is_named"),
    [
        ("postprocess.nms_iou=0.7", True),
        ("data.resize.val_shorter=640", True),
        ("device=cuda:1", False),  # no effect on scores
        ("data.workers=0", False),
        ("data.val=/home/alice/val.json", False),
        ("data.val.images=images", False),
        ("data={val: val.json}", False),
        ("model.backbone.weights=/home/alice/r50.pth", False),
        ("model={backbone: {weights: ~/r50.pth}}", False),
    ],
)
def test_overrides_are_named_if_they_change_scores_and_name_no_path(override, is_named):
    scores = scores_of_evaluation(EVALUATION | {"overrides": [override], "notes": []})
    assert scores.notes == ((f"evaluated with {override}",) if is_named else ())
