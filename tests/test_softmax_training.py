"""End-to-end test of softmax with background and ATSS: training, checkpoint, evaluation, and prediction."""

import json
import shutil

import pytest
import torch

from retinanet.checkpoint.file import read_checkpoint
from retinanet.cli import eval as eval_tool
from retinanet.config.load import load_config
from retinanet.engine.train import train
from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor
from tests.helpers.metrics import read_metrics

SOFTMAX = ["model.class_activation=softmax", "loss.classification.type=softmax_focal"]


@pytest.fixture(scope="module")
def overrides(tiny_overrides):
    return [
        *tiny_overrides,
        *SOFTMAX,
        "loss.classification.alpha=inverse_frequency",
        "assignment.type=atss",
        "assignment.anchors_per_level=27",
        "train.optimizer={type: adamw, lr: 0.002}",
        "train.warmup_steps=0",
        "model.prior=0.5",  # so that a few steps give scores above min_score
        "postprocess.min_score=0.01",
        "inference.precision=fp32",
    ]


@pytest.fixture(scope="module")
def run(overrides, tmp_path_factory):
    return train(load_config("quickstart", overrides), tmp_path_factory.mktemp("softmax") / "run")


def class_bias(content):
    """Bias of the last layer of the class subnet."""
    return [value for name, value in content.weights().items() if name.startswith("head.class_subnet.")][-1]


def test_checkpoint_of_a_trained_run_evaluates_and_predicts(run, shapes, tmp_path):
    lines = read_metrics(run.folder)
    losses = [line["class_loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0]
    checkpoint = run.folder / "checkpoints/last.pt"
    content = read_checkpoint(checkpoint)
    num_classes = len(content.class_names)
    assert class_bias(content).shape == (9 * (num_classes + 1),)

    # The checkpoint reproduces the metrics of the run's last evaluation.
    assert eval_tool.main([str(checkpoint), "--output", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "evaluation.json").read_text())
    for name in ("AP", "AP50", "loss", "class_loss", "box_loss"):
        assert metrics[name] == pytest.approx(lines[-1][name], rel=1e-3, abs=1e-6), name

    detections = Predictor.from_checkpoint(checkpoint)(shapes / "val" / "000001.png")
    assert len(detections.scores) > 10 and detections.labels.max() < num_classes
    # Scores come from a softmax: those of one box sum to less than 1.
    boxes, index = detections.boxes.unique(dim=0, return_inverse=True)
    total = torch.zeros(len(boxes)).index_add_(0, index, detections.scores)
    assert len(boxes) < len(detections.scores) and total.max() < 1

    with pytest.raises(InputError, match=r"model\.class_activation is sigmoid"):
        Predictor.from_checkpoint(checkpoint, ["model.class_activation=sigmoid"])
    with pytest.raises(InputError, match="the weights do not fit the model as changed by the overrides"):
        Predictor.from_checkpoint(checkpoint, ["model.class_activation=sigmoid", "loss.classification.type=focal"])


def test_resumed_run_has_the_same_weights_and_a_new_run_can_start_from_them(run, overrides, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run", symlinks=True)
    last = folder / "checkpoints/step_00000008.pt"
    straight = read_checkpoint(last)
    last.unlink()
    again = train(load_config("quickstart", overrides), folder, resume=True)
    assert "resuming from" in (again.folder / "log.txt").read_text()
    for name, value in read_checkpoint(last).weights().items():
        assert torch.equal(value, straight.weights()[name]), name

    second, first = straight.class_names[1], straight.class_names[0]
    others = [f"data.classes=[{second}, {first}]", f"train.init_from={last}", "train.steps=1"]
    fine = train(load_config("quickstart", [*overrides, *others]), tmp_path / "fine")
    assert f"2 classes ({second}, {first}) by name" in (fine.folder / "log.txt").read_text()
    assert class_bias(read_checkpoint(fine.folder / "checkpoints/last.pt")).shape == (9 * 3,)
