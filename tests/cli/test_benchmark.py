"""The command `retinanet benchmark` and its suites, on small input."""

import json

import pytest
import torch

from retinanet.benchmarks import export
from retinanet.benchmarks.candidates import check_candidates
from retinanet.cli.benchmark import DEFAULT, SUITES, main, select_suites
from retinanet.export.write import metadata_of, program_of
from tests.helpers.exports import eager

SMALL = ["--size", "64x96", "--batch", "1", "--rounds", "1", "--backbone", "resnet18", "--precision", "fp32"]


def run_benchmark(tmp_path, *arguments: str) -> dict:
    """Run the command on small input and return the content of its JSON file."""
    file = tmp_path / "out" / "results.json"
    assert main([*arguments, *SMALL, "--json", str(file)]) == 0
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_train_step_suite_compares_all_implementations(tmp_path, capsys):
    result = run_benchmark(tmp_path, "train_step", "--classes", "3")
    ratios = {"vs_torchvision", "vs_torchvision_tuned", "vs_convolutions", "vs_detectron2"}
    assert set(result) == {*ratios, "details"}
    assert all(result[name] > 0 for name in ratios)
    step = result["details"]["train_step"]
    assert step["variants"]["ours"]["host_reads"] == 0
    assert step["variants"]["torchvision"]["host_reads"] > 0
    assert len(step["variants"]["ours"]["rounds_s"]) == 1
    machine = result["details"]["machine"]
    assert {"cpu", "cpu_capability", "threads", "packages", "git_commit", "command", "precision"} <= set(machine)
    printed = capsys.readouterr().out
    assert "reimplemented" in printed and "torchvision tuned" in printed and machine["cpu"] in printed


def test_inference_suite_compares_all_implementations(tmp_path):
    result = run_benchmark(tmp_path, "inference", "--classes", "20")
    assert set(result) == {"vs_torchvision", "vs_torchvision_tuned", "vs_convolutions", "details"}


@pytest.mark.slow
def test_export_suite_compares_detectors_that_find_the_same_objects(tmp_path, monkeypatch):
    """The exported file is replaced by the program that it would contain, because conversions take long."""
    programs = []

    def write_files(predictor, images, size, folder):
        programs.append(program_of(predictor, nms="outside"))
        (folder / "small.onnx").write_bytes(bytes(1000))
        metadata = metadata_of(predictor, checkpoint="", nms="outside", padded_shape=size)
        return {"onnx, nms outside": export.ExportedFile(folder / "small.onnx", "onnx", metadata)}

    monkeypatch.setattr(export, "require_packages", lambda to: None)
    monkeypatch.setattr(export, "write_files", write_files)
    monkeypatch.setattr(export, "open_export", lambda path, to: eager(programs[-1]))
    result = run_benchmark(tmp_path, "export", "--classes", "3")
    assert set(result) == {"batch_1_vs_torchvision", "batch_1_vs_onnx_nms_outside", "details"}
    assert result["details"]["export"]["bytes"] == {"onnx, nms outside": 1000}


@pytest.mark.slow
def test_ratios_of_several_suites_have_the_suite_as_prefix(tmp_path):
    result = run_benchmark(tmp_path, "assignment", "postprocess", "eval", "model", "--classes", "20")
    assert set(result) == {
        "assignment.vs_torchvision",
        "postprocess.vs_torchvision",
        "postprocess.vs_torchvision_crowds",
        "eval.vs_pycocotools",
        "model.vs_torchvision",
        "details",
    }
    details = result["details"]
    assert details["assignment"]["assigned_differently"] == 0
    assert details["postprocess"]["batch_1"]["identical_detections"] > 0.99
    assert details["eval"]["largest_difference"] < 1e-15  # the same means, summed in a different order
    ours, theirs = (details["model"]["networks"][name] for name in ("ours", "torchvision"))
    assert ours["parameters"] == theirs["parameters"]
    # Both networks compute the same convolutions, but on maps of width 1 or 2, ours skips columns of zeros.
    assert 0.999 * theirs["forward_flops"] < ours["forward_flops"] <= theirs["forward_flops"]
    assert ours["saved_bytes"] > 0


@pytest.mark.slow
def test_training_suite_runs_the_whole_loop(tmp_path, monkeypatch):
    """The suite covers loading, steps and metrics, and the convolutions take no longer than the whole."""
    monkeypatch.setattr("retinanet.benchmarks.training.NUM_DRAWN", 8)
    result = run_benchmark(tmp_path, "training", "--workers", "1")
    assert set(result) == {"vs_torchvision", "vs_torchvision_tuned", "vs_convolutions", "details"}
    training = result["details"]["training"]
    assert set(training["images_per_s"]) == {"ours", "torchvision", "torchvision tuned"}
    for name, speed in training["images_per_s"].items():
        assert speed == pytest.approx(training["steps"] / training["variants"][name]["median_s"])
        assert training["variants"][name]["peak_bytes"] > 0
    assert training["share_of_convolutions"] > 0
    assert training["variants"]["ours"]["host_reads"] == 0


@pytest.mark.gpu
def test_default_suites_run_on_a_gpu(tmp_path):
    file = tmp_path / "results.json"
    assert main(["--device", "cuda", "--rounds", "3", "--json", str(file)]) == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    assert set(result["details"]) == {"machine", *DEFAULT}
    for suite in ("train_step", "training", "inference"):
        ours = result["details"][suite]["variants"]["ours"]
        assert ours["peak_bytes"] > 0 and ours["median_s"] > 0


def test_loss_suite_shows_that_our_gradients_are_accurate(tmp_path, monkeypatch):
    monkeypatch.setattr("retinanet.benchmarks.loss.ANCHORS", 2000)
    result = run_benchmark(tmp_path, "loss", "--classes", "20")
    assert set(result) == {"vs_torchvision", "vs_torchvision_inexact", "vs_torchvision_float32", "details"}
    # Half a unit in the last place of bfloat16 is 2e-3.
    for precision, bound in (("bfloat16", 3e-3), ("float32", 1e-6)):
        assert result["details"]["loss"][precision]["errors"]["ours"]["gradient"] < bound


def test_data_suite_reads_the_folder_twelve_times(tmp_path, shapes):
    options = ["--images", str(shapes / "val"), "--annotations", str(shapes / "val.json"), "--workers", "0"]
    result = run_benchmark(tmp_path, "data", *options)
    assert set(result) == {"vs_torchvision", "details"}
    assert result["details"]["data"]["images"] == 96  # 8 images, 12 times
    assert {"decode", "resize", "normalise"} < set(result["details"]["data"]["stages_ms"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train_stop"], "no suite 'train_stop', expected one or more of train_step, training, inference"),
        (["train_stop"], "did you mean train_step?"),
        (["loss", "--rounds", "0"], "--rounds is 0, expected 1 or more"),
        (["model", "--backbone", "resnet1"], "--backbone is 'resnet1', expected one of resnet18"),
        (["model", "--size", "100x64"], "--size is 100x64, expected multiples of 32"),
        (["data", "--images", "here"], "found only --images"),
    ],
)
def test_invalid_arguments_are_reported(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_select_suites_accepts_dashes_and_drops_duplicates():
    assert "train_step" in SUITES
    assert select_suites(["train-step", "loss", "train_step"]) == ["train_step", "loss"]
    assert select_suites(["loss", "all"]) == list(SUITES)


def test_suite_that_some_machines_cannot_run_is_last():
    *others, last = select_suites(["all"])
    assert last == "export" and set(DEFAULT) < set(others)


def test_too_few_candidates_or_detections_are_an_error():
    logits = torch.full((1, 2000, 1), -10.0)
    with pytest.raises(RuntimeError, match="level 0 has \\[0\\] candidates"):
        check_candidates([logits], [100])
    with pytest.raises(RuntimeError, match=r"\[99\] detections, expected 100"):
        check_candidates([logits + 10], [99])
