"""Options of a run: early stopping, time limits, profiles."""

import json
import math

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from retinanet.checkpoint.file import read_checkpoint
from retinanet.config.load import load_config
from retinanet.engine.nonfinite import respond
from retinanet.engine.nonfinite.respond import NonFiniteGradient
from retinanet.engine.step import TrainStep
from retinanet.engine.train import train
from retinanet.errors import InputError
from tests.helpers.metrics import read_metrics


@pytest.fixture
def run(tmp_path, tiny_overrides):
    def start(name: str, *overrides: str, **arguments):
        return train(load_config("quickstart", [*tiny_overrides, *overrides]), tmp_path / name, **arguments)

    return start


def evaluated(folder) -> list[int]:
    return [line["step"] for line in read_metrics(folder) if line["kind"] == "eval"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [("AP", [0.2, 0.5, 0.5, 0.4], 0.5), ("AP50", [0.2, 0.5, 0.5, 0.4], 0.5), ("loss", [3.0, 1.0, 1.0, 2.0], 1.0)],
)
def test_early_stop_and_best_checkpoint_follow_the_best_metric(run, monkeypatch, metric, values, best):
    """The second evaluation is the best, and the next two are not better. All other metrics keep improving."""
    from retinanet.engine import evaluate as module

    evaluate_batches, remaining, rising = module.evaluate_batches, iter(values), iter([0.1, 0.2, 0.3, 0.4])

    def scored(*arguments, **keywords):
        result, rise = evaluate_batches(*arguments, **keywords), next(rising)
        metrics = {"AP": rise, "AP50": rise, "loss": 1 - rise, metric: next(remaining)}
        scores = result.scores._replace(
            metrics=result.scores.metrics | {name: metrics[name] for name in ("AP", "AP50")}
        )
        return result._replace(scores=scores, losses=result.losses | {"loss": metrics["loss"]})

    monkeypatch.setattr(module, "evaluate_batches", scored)
    result = run("stops", f"train.best_metric={metric}", "train.steps=20", "train.eval_every=2", "train.early_stop=2")
    assert (result.step, result.stopped_by) == (8, "train.early_stop")
    assert (result.best_metric, result.best) == (metric, best)
    assert not result.is_preempted and not (result.folder / "preempted").exists()
    assert evaluated(result.folder) == [2, 4, 6, 8]
    assert read_checkpoint(result.folder / "checkpoints/best.pt").step == 4
    assert read_checkpoint(result.folder / "checkpoints/last.pt").step == 8
    log = (result.folder / "log.txt").read_text()
    assert f"(best {metric} {best:.4f})" in log
    assert f"step 8: 2 evaluations without a better {metric}: stopping early" in log


def test_early_stop_without_a_validation_set_is_refused(run):
    with pytest.raises(InputError, match=r"train\.early_stop needs evaluations"):
        run("blind", "train.early_stop=2", "data.val=[]")


def test_validation_set_without_objects_is_reported_before_the_first_step(run, tmp_path, shapes, capsys):
    truth = json.loads((shapes / "val.json").read_text())
    (tmp_path / "val.json").write_text(json.dumps(truth | {"annotations": []}))
    overrides = [f"data.val.annotations={tmp_path / 'val.json'}", "train.steps=2", "train.eval_every=1"]
    with pytest.raises(InputError, match=r"data\.val: it has no objects, so AP cannot be measured.*early_stop=null"):
        run("refused", *overrides, "train.early_stop=2")
    result = run("newest", *overrides)
    printed = capsys.readouterr().out
    warning = "data.val: it has no objects, so AP cannot be measured; best.pt will be the newest checkpoint"
    assert 0 <= printed.index(warning) < printed.index("step 1: AP nan")
    assert math.isnan(result.best) and read_checkpoint(result.folder / "checkpoints/best.pt").step == 2


@pytest.mark.slow
def test_max_hours_saves_and_stops_a_run_that_can_be_resumed(run):
    first = run("short", "train.max_hours=1e-9")
    assert (first.step, first.stopped_by) == (2, "train.max_hours")  # at the first log line
    assert read_checkpoint(first.folder / "checkpoints/last.pt").step == 2
    again = run("short", "train.max_hours=1", resume=True)
    assert (again.step, again.stopped_by) == (8, None)
    assert evaluated(again.folder) == [4, 8]


def test_max_hours_reached_at_the_last_step_does_not_count_as_a_stop(run):
    result = run("through", "train.max_hours=1e-9", "train.steps=2", "train.log_every=2", "data.val=[]")
    assert (result.step, result.stopped_by) == (2, None)


@pytest.mark.slow
def test_profile_records_the_operations_of_five_steps(run):
    result = run("profiled", "train.eval_every=8", "train.save_every=8", profile=True)
    table = (result.folder / "profile/profile_rank0.txt").read_text()
    assert "convolution_backward" in table and "Self CPU" in table
    (trace,) = (result.folder / "profile").glob("*.pt.trace.json")
    steps = {event["name"] for event in json.loads(trace.read_text())["traceEvents"] if "name" in event}
    assert {f"ProfilerStep#{number}" for number in range(3, 8)} <= steps


def test_profile_of_too_few_steps_is_refused_before_training(run):
    with pytest.raises(InputError, match=r"--profile skips the first 3 steps .* has 3 left"):
        run("few", "train.steps=3", profile=True)


def test_refused_profile_leaves_the_old_run_untouched(run):
    first = run("old", "train.steps=3", "data.val=[]")
    with pytest.raises(InputError, match="--profile"):
        run("old", "train.steps=3", overwrite=True, profile=True)
    assert read_checkpoint(first.folder / "checkpoints/last.pt").step == 3


def test_run_killed_while_it_starts_can_be_started_again(run, monkeypatch):
    """The run is killed, or runs out of disk space, when the first of its files exists."""
    monkeypatch.setattr("retinanet.engine.run_folder.log_to_file", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("begun")
    monkeypatch.undo()
    assert run("begun", "train.steps=1", "data.val=[]", resume="auto").step == 1


@pytest.mark.slow
def test_resuming_with_different_micro_batches_causes_a_warning(run, capsys):
    run("parts", "train.max_hours=1e-9")
    run("parts", "train.accumulate=2", resume=True)
    printed = capsys.readouterr().out
    assert "train.accumulate 1, now 2: results will differ in their last digits" in printed
    assert "batch norm now sees different micro-batches (model.backbone.norm: batch)" in printed


# The full disk makes TensorBoard's writer thread fail.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_run_on_a_full_disk_continues_to_the_end_and_reports_missing_checkpoints(small_disk, tiny_overrides, capsys):
    """A checkpoint of 100 MB does not fit on the disk."""
    folder = small_disk / "run"
    with pytest.raises(
        InputError, match=r"step_00000008\.pt: could not be written.*intact checkpoints: none.*--resume"
    ):
        train(load_config("quickstart", tiny_overrides), folder)
    printed = capsys.readouterr().out
    assert "step 8 of 8: loss" in printed and "step 8: AP" in printed
    assert printed.count("could not save the checkpoint") == 2
    assert [(line["kind"], line["step"]) for line in read_metrics(folder)] == [
        *(("train", 2), ("train", 4), ("eval", 4)),
        *(("train", 6), ("train", 8), ("eval", 8)),
    ]


# ---- transforms from Python


class White(v2.Transform):
    """Make every image white."""

    def transform(self, inpt, params):
        return torch.full_like(inpt, 255) if isinstance(inpt, tv_tensors.Image) else inpt


def test_extra_transforms_apply_in_training_and_when_a_bad_step_is_reloaded(run, monkeypatch):
    trained, reloaded = [], []
    backward = TrainStep.backward
    monkeypatch.setattr(TrainStep, "backward", lambda step, batches: trained.extend(batches) or backward(step, batches))
    monkeypatch.setattr(respond, "report", lambda run, step, batches: reloaded.extend(batches) or "not finite")
    with pytest.raises(NonFiniteGradient):
        run("white", "train.optimizer={type: sgd, lr: 1e30}", "data.val=[]", extra_transforms=[White()])
    for batch in [*trained, *reloaded]:
        for image, (height, width) in zip(batch.images, batch.image_sizes.tolist(), strict=True):
            assert (image[:, :height, :width] == 255).all()
    assert trained and reloaded
