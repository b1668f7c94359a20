import json

import pytest
import torch

from retinanet.benchmarks.candidates import check_candidates
from retinanet.cli.benchmark import SUITES, main

SMALL = ["--size", "64x96", "--batch", "1", "--rounds", "1", "--backbone", "resnet18", "--precision", "fp32"]


def figures(tmp_path, *arguments: str) -> dict:
    file = tmp_path / "out" / "figures.json"
    assert main([*arguments, *SMALL, "--json", str(file)]) == 0
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_train_step(tmp_path, capsys):
    found = figures(tmp_path, "train_step", "--classes", "3")
    ratios = {"vs_torchvision", "vs_torchvision_tuned", "vs_convolutions", "vs_detectron2"}
    assert set(found) == {*ratios, "details"}
    assert all(found[name] > 0 for name in ratios)
    step = found["details"]["train_step"]
    assert step["contestants"]["ours"]["host_reads"] == 0
    assert step["contestants"]["torchvision"]["host_reads"] > 0
    assert len(step["contestants"]["ours"]["rounds_s"]) == 1
    machine = found["details"]["machine"]
    assert {"cpu", "cpu_capability", "threads", "packages", "git_commit", "command", "precision"} <= set(machine)
    printed = capsys.readouterr().out
    assert "road re-made" in printed and "torchvision tuned" in printed and machine["cpu"] in printed


def test_inference(tmp_path):
    found = figures(tmp_path, "inference", "--classes", "20")
    assert set(found) == {"vs_torchvision", "vs_torchvision_tuned", "vs_convolutions", "details"}


@pytest.mark.slow
def test_several_suites_prefix_their_ratios(tmp_path):
    found = figures(tmp_path, "assignment", "postprocess", "eval", "model", "--classes", "20")
    assert set(found) == {
        "assignment.vs_torchvision",
        "postprocess.vs_torchvision",
        "postprocess.vs_torchvision_crowds",
        "eval.vs_pycocotools",
        "model.vs_torchvision",
        "details",
    }
    details = found["details"]
    assert details["assignment"]["treated_differently"] == 0
    assert details["postprocess"]["batch_1"]["same_detections"] > 0.99
    assert details["eval"]["largest_difference"] < 1e-15  # the same means, added in another order
    ours, theirs = (details["model"]["networks"][name] for name in ("ours", "torchvision"))
    assert ours["parameters"] == theirs["parameters"]
    # Both networks compute the same convolutions: two operations for each weight and place, over and over.
    assert ours["forward_flops"] == theirs["forward_flops"] > 0
    assert ours["saved_bytes"] > 0


def test_loss(tmp_path, monkeypatch):
    monkeypatch.setattr("retinanet.benchmarks.loss.ANCHORS", 2000)
    found = figures(tmp_path, "loss", "--classes", "20")
    assert set(found) == {"vs_torchvision", "vs_torchvision_inexact", "vs_torchvision_float32", "details"}
    for precision, bound in (("bfloat16", 3e-3), ("float32", 1e-6)):  # half a last place of bfloat16 is 2e-3
        assert found["details"]["loss"][precision]["errors"]["ours"]["gradient"] < bound


def test_data(tmp_path, shapes):
    own = ["--images", str(shapes / "val"), "--annotations", str(shapes / "val.json"), "--workers", "0"]
    found = figures(tmp_path, "data", *own)
    assert set(found) == {"vs_torchvision", "details"}
    assert found["details"]["data"]["images"] == 96  # 8 images, 12 times


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train_stop"], "found no suite 'train_stop', expected some of train_step, inference"),
        (["train_stop"], "did you mean train_step?"),
        (["loss", "--rounds", "0"], "--rounds is 0, expected 1 or more"),
        (["model", "--backbone", "resnet1"], "--backbone is 'resnet1', expected one of resnet18"),
        (["model", "--size", "100x64"], "--size is 100x64, expected multiples of 32"),
        (["data", "--images", "here"], "found --images alone"),
    ],
)
def test_mistakes_are_named(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_dash_for_underscore():
    assert "train_step" in SUITES
    from retinanet.cli.benchmark import chosen

    assert chosen(["train-step", "loss", "train_step"]) == ["train_step", "loss"]
    assert chosen(["loss", "all"]) == list(SUITES)


def test_too_few_candidates_are_refused():
    logits = torch.full((1, 2000, 1), -10.0)
    with pytest.raises(RuntimeError, match="level 0 has \\[0\\] candidates"):
        check_candidates([logits], [100])
    with pytest.raises(RuntimeError, match="detections remain"):
        check_candidates([logits + 10], [99])
