"""Evaluation of a checkpoint gives the scores of the run that wrote it, and writes them to files."""

import json
import math

import numpy as np
import pytest
import torch

from retinanet.config.load import load_config
from retinanet.engine.evaluate import Evaluation
from retinanet.engine.evaluate_checkpoint import evaluate_checkpoint
from retinanet.engine.evaluation_files import write_evaluation
from retinanet.engine.train import train
from retinanet.evaluation.coco import METRICS, score_detections
from retinanet.structures import Detections
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.metrics import read_metrics


@pytest.mark.usefixtures("restore_process_settings")
@pytest.mark.parametrize(
    "overrides",
    [
        ["model.backbone.norm=batch", "train.ema_decay=0.9", "train.precision=fp32", "inference.precision=bf16"],
        ["model.backbone.norm=frozen", "train.precision=bf16", "inference.precision=fp32"],
    ],
    ids=["averaged batch norm, evaluated in bf16", "frozen norm, evaluated in fp32"],
)
def test_checkpoint_gets_exactly_the_scores_recorded_in_training(tiny_overrides, tmp_path, overrides):
    """In both evaluations, norms are folded into rounded weights. The loss is sensitive to the slightest difference."""
    overrides = [*tiny_overrides, *overrides, "train.best_metric=loss", "postprocess.min_score=0", "train.seed=1"]
    run = train(load_config("quickstart", overrides), tmp_path / "run")
    recorded = {line["step"]: line for line in read_metrics(run.folder) if line["kind"] == "eval"}
    assert sorted(recorded) == [4, 8] and recorded[8]["loss"] == run.metrics["loss"]
    best = min(recorded.values(), key=lambda line: line["loss"])
    for name, line in (("best.pt", best), ("step_00000004.pt", recorded[4])):
        checkpoint = run.folder / "checkpoints" / name
        evaluation = evaluate_checkpoint(checkpoint, output=tmp_path)
        for metric, value in evaluation.metrics_and_classes.items():
            assert line[metric] == (None if math.isnan(value) else value), metric
        written = json.loads((tmp_path / "evaluation.json").read_text())
        assert all(written[metric] == line[metric] for metric in evaluation.metrics_and_classes)
        assert any(len(found) for found in evaluation.detections.values()) and evaluation.metrics["loss"] > 0


def test_results_have_the_image_ids_of_the_annotation_file(tmp_path):
    ids = ("b.png", 2**53 + 1, "a.png")
    data = dataset_of([image_record(image_id=number) for number in ids], category_ids=(7,))
    box = Detections(torch.tensor([[1.0, 1.0, 5.0, 4.0]]), torch.tensor([0.5]), torch.tensor([0]))
    detections = {2: box, 0: box, 1: box}
    evaluation = Evaluation(score_detections(data, detections), detections, {"loss": 1.0})
    assert evaluation.scores.metrics["AP"] == pytest.approx(1)
    write_evaluation(tmp_path, evaluation, data, {"checkpoint": "x"})
    results = json.loads((tmp_path / "detections.json").read_text())
    assert [result["image_id"] for result in results] == list(ids)
    assert results[0] == {"image_id": "b.png", "category_id": 7, "bbox": [1, 1, 4, 3], "score": 0.5}


def test_metrics_that_cannot_be_measured_become_null(tmp_path):
    data = dataset_of([image_record(boxes=())])
    evaluation = Evaluation(score_detections(data, {}), {}, {"loss": 1.0})
    write_evaluation(tmp_path, evaluation, data, {"checkpoint": "x"})
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert [written[name] for name in METRICS] == [None] * len(METRICS)
    assert (written["loss"], written["AP/object"], written["checkpoint"]) == (1.0, None, "x")
    assert not np.isfinite(evaluation.metrics["AP"])
