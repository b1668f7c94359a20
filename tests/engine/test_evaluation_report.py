"""The explanation of an evaluation: AP recorded in training, the diagnosis, and the report page."""

import json

import numpy as np
import pytest

from retinanet.config import Config, TrainConfig
from retinanet.config.load import with_overrides
from retinanet.engine.evaluate import Evaluation
from retinanet.engine.evaluate_checkpoint import Evaluated
from retinanet.engine.evaluation_report import explain, facts_of_evaluation, recorded_ap, run_curves, write_report
from retinanet.evaluation.analysis import analyse
from retinanet.evaluation.coco import score_detections
from retinanet.structures import Detections
from tests.helpers.scored_sets import two_images
from tests.helpers.simulated_detectors import detect, random_dataset

CFG = Config(train=TrainConfig(steps=1))


def evaluated_of(dataset, found, *, cfg=CFG, **source):
    scores = score_detections(dataset, found)
    return Evaluated(cfg, dataset, Evaluation(scores, found, {}), {"annotations": ["val.json"], **source})


@pytest.fixture
def checkpoint(tmp_path):
    """`best.pt` of a run that was evaluated at steps 5 and 10, of which step 5 is the best."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "step_00000005.pt").touch()
    (folder / "best.pt").symlink_to("step_00000005.pt")
    lines = [
        {"kind": "train", "step": 5, "loss": 1.0},
        {"kind": "eval", "step": 5, "AP": 0.5, "AP/class 0": 0.6, "AP/class 1": 0.4},
        {"kind": "eval", "step": 10, "AP": 0.3, "AP/class 0": 0.3, "AP/class 1": None},
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "best.pt"


def test_recorded_ap_is_that_of_the_step_and_of_the_classes_with_objects(checkpoint):
    dataset, _ = two_images(num_classes=2)  # all objects are of class 0
    assert recorded_ap(checkpoint, dataset) == 0.6
    assert recorded_ap(checkpoint.with_name("step_00000010.pt"), dataset) == 0.3
    assert recorded_ap(checkpoint.with_name("step_00000007.pt"), dataset) is None  # not evaluated
    assert recorded_ap(checkpoint.parent.parent / "moved.pt", dataset) is None


def test_low_ap_is_diagnosed_and_another_one_is_not():
    random = np.random.default_rng(0)
    dataset = random_dataset(random)
    right = detect(dataset, random)
    halved = {n: Detections(0.5 * one.boxes, one.scores, one.labels) for n, one in right.items()}
    (diagnosis,) = explain(evaluated_of(dataset, halved, detections="a.json"), with_anchors=False).diagnoses
    assert diagnosis.cause == "boxes are scaled by about 0.5"
    assert explain(evaluated_of(dataset, right, detections="a.json"), with_anchors=False) == ([], None)


def test_ap_far_below_that_in_training_is_diagnosed(checkpoint):
    # AP is at most a third of the recorded 0.6: two of five detections match, and one object is missed.
    dataset, detections = two_images(num_classes=2)
    found = {0: detections[0][[1]], 1: detections[1][[1]]}
    evaluated = evaluated_of(dataset, found, checkpoint=str(checkpoint))
    assert 0.05 < evaluated.evaluation.scores.metrics["AP"] < 0.3
    (diagnosis,) = explain(evaluated, with_anchors=False).diagnoses
    assert diagnosis.cause == "the weights, the data or the preprocessing differ from training"
    assert "AP was 0.600 in training" in diagnosis.evidence


def test_anchors_are_measured_for_networks_only():
    dataset, detections = two_images()
    fit = explain(evaluated_of(dataset, detections), with_anchors=True).anchors
    # Anchors have sides of 32 to 813 pixels, and the images of 100 pixels are enlarged eightfold: all objects fit.
    assert fit.matched_share == 1 and fit.ceiling == pytest.approx(1)
    assert explain(evaluated_of(dataset, detections, detections="a.json"), with_anchors=True).anchors is None


def test_facts_name_the_checkpoint_the_data_and_unusual_settings(checkpoint):
    cfg = with_overrides(CFG, ["evaluation.max_detections=1"], source="test")
    evaluated = evaluated_of(*two_images(), cfg=cfg, checkpoint=str(checkpoint))
    facts = facts_of_evaluation(evaluated)
    assert facts["checkpoint"] == f"{checkpoint} (step_00000005.pt)" and facts["data"] == "val.json"
    assert facts["note"].startswith("evaluation.max_detections is 1") and "shown" not in facts
    four = with_overrides(
        CFG, ["model.in_channels=4", "model.mean=[9, 9, 9, 9]", "model.std=[9, 9, 9, 9]"], source="test"
    )
    assert facts_of_evaluation(evaluated_of(*two_images(), cfg=four))["shown"].startswith("the first three channels")
    assert facts_of_evaluation(evaluated_of(*two_images(), detections="a.json")) == {"data": "val.json"}


def test_page_has_the_curves_of_the_run_and_its_config(checkpoint, tmp_path):
    dataset, detections = two_images()
    evaluated = evaluated_of(dataset, detections, checkpoint=str(checkpoint))
    analysis, phases = analyse(dataset, detections, num_resamples=20), []
    options = {"title": "my run", "facts": {"fact": "stated"}}
    result = write_report(
        tmp_path / "a.html",
        evaluated,
        analysis,
        run_folder=checkpoint.parent.parent,
        begin=phases.append,
        **options,
    )
    page = (tmp_path / "a.html").read_text()
    assert "Evaluation of my run" in page and "stated" in page and "min_score: 0.05" in page
    assert "Validation AP" in page and result.finding in page
    assert result.largest_error is not None and analysis.largest_error is None
    assert phases == ["analysing errors", "reading images for the report", "writing the report"]
    of_file = evaluated_of(dataset, detections, detections="a.json")
    write_report(tmp_path / "b.html", of_file, analysis, run_folder=None, **options)
    page = (tmp_path / "b.html").read_text()
    assert "min_score" not in page and "Validation AP" not in page


def test_folder_without_metrics_has_no_curves(tmp_path):
    assert run_curves(tmp_path) == []
