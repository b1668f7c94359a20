"""What a user may ask of a whole run, besides to learn."""

import json

import pytest

from retinanet.checkpoint.file import read_checkpoint
from retinanet.cli.train import main
from retinanet.config.load import load_config
from retinanet.engine.metrics_log import read_metrics
from retinanet.engine.train import train
from retinanet.errors import InputError


@pytest.fixture
def run(tmp_path, tiny_overrides):
    def start(name: str, *overrides: str, **arguments):
        return train(load_config("quickstart", [*tiny_overrides, *overrides]), tmp_path / name, **arguments)

    return start


def evaluated(folder) -> list[int]:
    return [line["step"] for line in read_metrics(folder) if line["kind"] == "eval"]


def test_early_stop_counts_evaluations_without_a_better_score(run, monkeypatch):
    """AP 0.2, 0.5, 0.5 and 0.4: the second is the best, and two more were not better."""
    scores = iter([0.2, 0.5, 0.5, 0.4])
    from retinanet.engine import train as module

    evaluate = module.evaluate

    def scored(*arguments, **keywords):
        result = evaluate(*arguments, **keywords)
        return result._replace(scores=result.scores._replace(metrics=result.scores.metrics | {"AP": next(scores)}))

    monkeypatch.setattr(module, "evaluate", scored)
    result = run("stops", "train.steps=20", "train.eval_every=2", "train.early_stop=2")
    assert (result.step, result.stopped_by, result.best_ap) == (8, "train.early_stop", 0.5)
    assert not result.is_preempted and not (result.folder / "preempted").exists()
    assert evaluated(result.folder) == [2, 4, 6, 8]
    assert read_checkpoint(result.folder / "checkpoints/best.pt")["step"] == 4
    assert read_checkpoint(result.folder / "checkpoints/last.pt")["step"] == 8


def test_early_stop_needs_something_to_evaluate(run):
    with pytest.raises(InputError, match=r"train\.early_stop needs evaluations"):
        run("blind", "train.early_stop=2", "data.val=[]")


def test_hours_end_a_run_which_is_saved_and_can_go_on(run):
    first = run("short", "train.max_hours=1e-9")
    assert (first.step, first.stopped_by) == (2, "train.max_hours")  # at the first line of the log
    assert read_checkpoint(first.folder / "checkpoints/last.pt")["step"] == 2
    again = run("short", "train.max_hours=1", resume=True)
    assert (again.step, again.stopped_by) == (8, None)
    assert evaluated(again.folder) == [4, 8]


def test_hours_that_end_with_the_last_step_stop_nothing(run):
    result = run("through", "train.max_hours=1e-9", "train.log_every=8")
    assert (result.step, result.stopped_by) == (8, None)


def test_a_dry_run_tries_everything_and_keeps_nothing(tiny_overrides, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--dry-run", *tiny_overrides, "train.steps=1000000"]) == 0
    printed = capsys.readouterr().out
    assert "step 1 of 1: loss" in printed and "step 1: AP " in printed
    assert "nothing of them is kept" in printed
    assert list(tmp_path.glob("*run*")) == []


def test_a_dry_run_finds_what_would_fail_at_the_first_evaluation(tiny_overrides, tmp_path, shapes, capsys):
    """Long after its start: an annotation file whose image is not there."""
    truth = json.loads((shapes / "val.json").read_text())
    truth["images"][0]["file_name"] = "missing.png"
    (tmp_path / "val.json").write_text(json.dumps(truth))
    overrides = [*tiny_overrides, f"data.val.annotations={tmp_path / 'val.json'}"]
    assert main(["quickstart", "--dry-run", *overrides]) == 2
    assert "missing.png" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--resume", "--overwrite", "--profile", "--output=here"])
def test_a_dry_run_has_nothing_to_do_with_a_run_folder(tiny_overrides, option, capsys):
    assert main(["quickstart", "--dry-run", option, *tiny_overrides]) == 2
    assert "--dry-run keeps nothing" in capsys.readouterr().err


def test_a_profile_names_the_operations_of_five_steps(run):
    result = run("profiled", "train.eval_every=8", "train.save_every=8", profile=True)
    table = (result.folder / "profile/profile_rank0.txt").read_text()
    assert "convolution_backward" in table and "Self CPU" in table
    (trace,) = (result.folder / "profile").glob("*.pt.trace.json")
    steps = {event["name"] for event in json.loads(trace.read_text())["traceEvents"] if "name" in event}
    assert {f"ProfilerStep#{number}" for number in range(3, 8)} <= steps


def test_a_profile_of_too_few_steps_is_refused_at_once(run):
    with pytest.raises(InputError, match=r"--profile leaves out the first 3 steps .* has 3 left"):
        run("few", "train.steps=3", profile=True)


def test_a_profile_that_is_refused_costs_no_run(run):
    first = run("old", "train.steps=3")
    with pytest.raises(InputError, match="--profile"):
        run("old", "train.steps=3", overwrite=True, profile=True)
    assert read_checkpoint(first.folder / "checkpoints/last.pt")["step"] == 3


def test_a_start_that_was_killed_leaves_a_folder_that_can_be_started_again(run, monkeypatch):
    """Killed, or out of room, before the first of its files but one is there."""
    monkeypatch.setattr("retinanet.engine.setup.log_to_file", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("begun")
    monkeypatch.undo()
    assert run("begun", "train.steps=1", resume=True).step == 1


def test_other_parts_of_a_batch_are_warned_of(run, capsys):
    run("parts", "train.max_hours=1e-9")
    run("parts", "train.accumulate=2", resume=True)
    printed = capsys.readouterr().out
    assert "train.accumulate 1, now 2: results will differ in their last digits" in printed
    assert "norms of other parts of a batch than before (model.backbone.norm: batch)" in printed


# TensorBoard's writing thread dies of it, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_on_a_full_disk_goes_on_to_its_end_and_says_what_is_missing(small_disk, tiny_overrides, capsys):
    """A checkpoint of 100 MB does not fit."""
    folder = small_disk / "run"
    with pytest.raises(InputError, match=r"step_00000008\.pt: could not be written.*whole: none.*--resume"):
        train(load_config("quickstart", tiny_overrides), folder)
    printed = capsys.readouterr().out
    assert "step 8 of 8: loss" in printed and "step 8: AP" in printed
    assert printed.count("SAVING FAILED") == 2
    assert [(line["kind"], line["step"]) for line in read_metrics(folder)] == [
        *(("train", 2), ("train", 4), ("eval", 4)),
        *(("train", 6), ("train", 8), ("eval", 8)),
    ]
