"""Tables, figures and the demo, end to end through `retinanet ablate`."""

import json
from functools import partial
from pathlib import Path

import pytest

from retinanet.ablation import figures, run
from retinanet.ablation.results import ResultsFile, config_hash
from retinanet.cli.ablate import main
from retinanet.engine.result import TrainResult
from retinanet.errors import InputError
from retinanet.runtime.lock import try_lock
from retinanet.runtime.stop import EXIT_STOPPED

pytestmark = pytest.mark.usefixtures("restore_process_settings")


@pytest.fixture
def ablate(tmp_path, tiny_overrides):
    """Run a small table on the tiny dataset and return the exit code. The row "wild" diverges."""
    (tmp_path / "mine.yaml").write_text(
        "title: mine\nbaseline: focal\nsetups: {quickstart: {config: quickstart, short: true}}\nrows:\n"
        "  - {name: focal, paper: {AP: 34.0}}\n"
        "  - {name: cross entropy, overrides: {loss: {classification: {gamma: 0.0}}}, paper: {AP: 31.1}}\n"
        "  - {name: wild, setups: [quickstart], overrides: {train: {optimizer: {lr: 1.0e+30}, clip_norm: null, "
        "warmup_steps: 0, log_every: 1}}}\n"
    )

    def start(*arguments: str, rows: tuple[str, ...] = ("focal", "cross entropy")) -> int:
        length = ["train.steps=2", "train.warmup_steps=0", "train.save_every=1", "train.eval_every=2"]
        changed = {override.partition("=")[0] for override in length}
        kept = [override for override in tiny_overrides if override.partition("=")[0] not in changed]
        if "wild" in rows:
            kept = [override for override in kept if not override.startswith("train.log_every")]
        options = ["--seeds", "2", "--output", str(tmp_path / "out"), *(a for a in arguments if "=" not in a)]
        overrides = [*kept, *length, *(a for a in arguments if "=" in a)]
        return main([str(tmp_path / "mine.yaml"), *overrides, *options, "--rows", *rows])

    return start


def named(cfg) -> str:
    """A label for a run; the rows differ by gamma."""
    return f"gamma {cfg.loss.classification.gamma:g}, seed {cfg.train.seed}"


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def train_result(folder: Path, *, step: int, metrics: dict[str, float], stopped_by: str | None = None) -> TrainResult:
    return TrainResult(
        folder=folder,
        step=step,
        metrics=metrics,
        best=metrics.get("AP", 0.0),
        best_metric="AP",
        stopped_by=stopped_by,
        diverged=False,
        seconds=1.0,
    )


@pytest.fixture
def no_training(monkeypatch):
    """Replace training with a stub that records the runs and returns a result."""
    started = []

    def fake_train(cfg, folder, *, resume):
        assert resume == "auto"
        started.append(named(cfg))
        return train_result(folder, step=2, metrics={"AP": 0.25, "APl": float("nan")})

    monkeypatch.setattr(run, "train", fake_train)
    return started


@pytest.mark.slow
def test_table_is_trained_resumed_and_reported(ablate, tmp_path, monkeypatch, capsys):
    assert ablate() == 0
    results = lines(tmp_path / "out")
    assert [(line["row"], line["seed"]) for line in results] == [
        ("focal", 0), ("cross entropy", 0), ("focal", 1), ("cross entropy", 1)]  # fmt: skip
    assert all(line["steps"] == 2 and line["seconds"] > 0 and 0 <= line["metrics"]["AP"] <= 1 for line in results)
    assert len({line["config_hash"] for line in results}) == 4
    assert all(line["versions"]["torch"] for line in results)
    table = (tmp_path / "out/mine.md").read_text()
    assert "| focal (baseline) |" in table and "| cross entropy |" in table and "changed by overrides" in table
    assert table in capsys.readouterr().out
    assert "<svg" in (tmp_path / "out/mine.svg").read_text()

    # Finished runs are not repeated. A run without a complete result line continues from its last checkpoint.
    file = tmp_path / "out/results.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    trained = []
    real = run.train
    monkeypatch.setattr(run, "train", lambda cfg, folder, **rest: trained.append(folder) or real(cfg, folder, **rest))
    assert ablate() == 0
    assert trained == [tmp_path / "out/runs" / results[3]["config_hash"]]
    # No steps remained: a repeated step would have been logged twice.
    log = (trained[0] / "log.txt").read_text()
    assert "resuming from" in log and log.count("step 2 of 2: loss") == 1
    again = lines(tmp_path / "out")
    assert again[:3] == results[:3] and again[3]["metrics"] == results[3]["metrics"]
    assert ablate() == 0 and len(trained) == 1

    assert ablate("--report", "--speed") == 0 and len(trained) == 1
    speed = (tmp_path / "out/mine_speed.md").read_text()
    assert "| focal |" in speed and "| cross entropy |" in speed and "| 1.00 |" in speed
    assert "<svg" in (tmp_path / "out/mine_speed.svg").read_text()


@pytest.mark.slow
def test_diverged_run_is_recorded_and_the_others_continue(ablate, tmp_path):
    assert ablate("--seeds", "1", rows=("wild", "focal")) == 0
    wild, focal = lines(tmp_path / "out")
    assert wild["status"] == "diverged" and "training diverged" in wild["message"] and wild["metrics"] == {}
    assert focal["status"] == "finished"
    table = (tmp_path / "out/mine.md").read_text()
    assert "| wild | diverged |" in table and "- wild, seed 0: diverged after" in table


@pytest.mark.slow
def test_training_without_the_prior_diverges(tiny_overrides, tmp_path):
    """Section 5.1 of the paper, with the settings of the table `prior`. With the prior, training succeeds."""
    kept = ("data.", "device", "train.precision", "train.deterministic")
    data = [override for override in tiny_overrides if override.startswith(kept)]
    steps = ["train.steps=25", "train.eval_every=25", "train.save_every=25"]
    options = ["--data", "quickstart", "--seeds", "1", "--output", str(tmp_path / "out")]
    assert main(["prior", *data, *steps, *options]) == 0
    with_prior, without = lines(tmp_path / "out")
    assert with_prior["status"] == "finished" and with_prior["steps"] == 25
    assert without["status"] == "diverged" and "training diverged: the gradient was not finite" in without["message"]


@pytest.mark.slow
def test_figures_of_a_checkpoint(ablate, tmp_path, capsys):
    assert ablate("--seeds", "1", rows=("focal",)) == 0
    folder = tmp_path / "out/runs" / lines(tmp_path / "out")[0]["config_hash"]
    assert main(["figures", str(folder / "checkpoints/last.pt")]) == 0
    written = {path.name for path in (folder / "figures").iterdir()}
    assert written == {"figure_1.svg", "figure_4.svg", "scores.svg", "history.svg", "figures.md"}
    text = (folder / "figures/figures.md").read_text()
    # One checkpoint per step, and two lines per checkpoint, one for each loss.
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith(("| 1 |", "| 2 |"))] == list(
        "1122"
    )
    # A single checkpoint has no history, and the text explains how to get one.
    assert main(["figures", str(_copy_alone(folder / "checkpoints/last.pt", tmp_path))]) == 0
    assert "train.keep_checkpoints=20" in (tmp_path / "alone/figures/figures.md").read_text()
    assert not (tmp_path / "alone/figures/history.svg").exists()


def _copy_alone(checkpoint: Path, tmp_path: Path) -> Path:
    (tmp_path / "alone").mkdir()
    copy = tmp_path / "alone/best.pt"
    copy.write_bytes(checkpoint.read_bytes())
    return copy


def test_earlier_version_is_reported_and_not_reused(ablate, no_training, capsys, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(run, "config_hash", partial(config_hash, version=1))
        ablate()
    assert ablate("--report") == 0 and "from an earlier release" in capsys.readouterr().out
    assert (len(no_training), ablate(), len(no_training)) == (4, 0, 8)


def test_run_locked_by_another_process_is_skipped(ablate, tmp_path, no_training, capsys):
    assert ablate() == 0
    first = (tmp_path / "out/results.jsonl").read_text().splitlines(keepends=True)[0]
    (tmp_path / "out/results.jsonl").unlink()
    no_training.clear()
    with try_lock(tmp_path / f"out/runs/{json.loads(first)['config_hash']}.lock"):
        assert ablate() == 0
    assert no_training == ["gamma 0, seed 0", "gamma 2, seed 1", "gamma 0, seed 1"]
    assert "1 run(s) are in progress in other processes" in capsys.readouterr().out
    assert ablate() == 0
    assert no_training[3:] == ["gamma 2, seed 0"]


def test_failed_run_is_recorded_and_retried_and_the_others_continue(ablate, tmp_path, no_training, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run, "train", _failing(run.train, "gamma 2, seed 0"))
        assert ablate() == 1
    first = lines(tmp_path / "out")[0]
    assert (first["status"], first["message"]) == ("failed", "RuntimeError: no memory left")
    assert len(no_training) == 3
    assert "- focal, seed 0: failed" in (tmp_path / "out/mine.md").read_text()
    assert ablate() == 0
    assert no_training[3:] == ["gamma 2, seed 0"]
    assert all(result.is_final for result in ResultsFile(tmp_path / "out").read().values())


def _failing(train, name):
    def failing_train(cfg, folder, **rest):
        if named(cfg) == name:
            raise RuntimeError("no memory left")
        return train(cfg, folder, **rest)

    return failing_train


def test_input_error_in_a_run_stops_the_command_without_a_traceback(
    ablate, tmp_path, no_training, monkeypatch, capsys, caplog
):
    def refuse(cfg, folder, **rest):
        raise InputError("device: cuda:7 cannot be used")

    assert ablate(rows=("cross entropy",)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(run, "train", refuse)
        assert ablate() == 2
    printed = capsys.readouterr()
    assert "row 'focal', seed 0: device: cuda:7 cannot be used" in printed.err
    assert "Traceback" not in printed.err + printed.out + caplog.text
    assert len(lines(tmp_path / "out")) == 2


def test_preempted_run_is_not_recorded(ablate, tmp_path, monkeypatch):
    def stopped_train(cfg, folder, **rest):
        return train_result(folder, step=1, metrics={}, stopped_by="SIGTERM")

    monkeypatch.setattr(run, "train", stopped_train)
    assert ablate() == EXIT_STOPPED
    assert not (tmp_path / "out/results.jsonl").exists()


def test_different_overrides_give_different_runs(ablate, tmp_path, no_training, capsys):
    assert ablate() == 0
    assert ablate("train.optimizer.lr=0.5", "--report") == 2
    assert "no runs of this table on quickstart with these overrides" in capsys.readouterr().err
    assert ablate("train.optimizer.lr=0.5", rows=("focal",)) == 0
    assert no_training[4:] == ["gamma 2, seed 0", "gamma 2, seed 1"]
    # A table shows only the runs with its config; earlier runs are kept.
    assert "| cross entropy | - | 0 |" in (tmp_path / "out/mine.md").read_text()
    assert ablate() == 0 and len(no_training) == 6
    assert "| cross entropy | 25.0 ± 0.0 | 2 |" in (tmp_path / "out/mine.md").read_text()


def test_tables_share_runs_with_equal_configs(ablate, tmp_path, no_training):
    assert ablate() == 0
    mine = tmp_path / "mine.yaml"
    mine.write_text(mine.read_text().replace("name: cross entropy", "name: gamma 0").replace("name: focal", "name: FL"))
    mine.write_text(mine.read_text().replace("baseline: focal", "baseline: FL"))
    assert ablate(rows=("gamma 0", "FL")) == 0
    assert len(no_training) == 4
    table = (tmp_path / "out/mine.md").read_text()
    assert "| FL (baseline) | 25.0 ± 0.0 | 2 |" in table and "| gamma 0 | 25.0 ± 0.0 | 2 |" in table


def test_input_error_in_the_data_is_not_recorded(ablate, tmp_path, no_training, capsys):
    assert ablate("data.train.annotations=nowhere.json") == 2
    assert "nowhere.json" in capsys.readouterr().err
    assert no_training == [] and not (tmp_path / "out/results.jsonl").exists()


def test_report_trains_nothing(ablate, tmp_path, no_training, capsys):
    assert ablate("--report") == 2
    assert "remove --report" in capsys.readouterr().err
    ablate("--seeds", "1")
    (tmp_path / "out/mine.md").unlink()
    assert ablate("--report") == 0
    assert "| focal (baseline) | 25.0 |" in (tmp_path / "out/mine.md").read_text()
    assert len(no_training) == 2


def test_speed_without_a_checkpoint_is_an_error_after_the_table_is_written(ablate, tmp_path, no_training, capsys):
    assert ablate("--speed") == 2
    assert "no checkpoint of a finished run of these rows" in capsys.readouterr().err
    assert (tmp_path / "out/mine.md").exists()


def test_torchrun_and_zero_seeds_are_rejected(ablate, monkeypatch, no_training, capsys):
    assert ablate("--seeds", "0") == 2
    assert "--seeds is 0, expected 1 or more" in capsys.readouterr().err
    monkeypatch.setattr(run, "is_launched", lambda: True)
    assert ablate() == 2
    assert "does not run under torchrun" in capsys.readouterr().err


def test_figures_of_a_missing_checkpoint(tmp_path, capsys):
    assert main(["figures", str(tmp_path / "none.pt")]) == 2
    assert "none.pt: no such checkpoint" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert figures.step_of(Path("step_00000012.pt")) == 12 and figures.step_of(Path("last.pt")) is None


def test_demo_writes_and_prints_its_table(tmp_path, monkeypatch, capsys):
    from retinanet.ablation import imbalance

    monkeypatch.setattr(imbalance, "train_one", lambda variant, seed: 0.1 * seed + variant.gamma / 10)
    assert main(["demo", "--seeds", "2", "--output", str(tmp_path)]) == 0
    text = (tmp_path / "demo.md").read_text()
    assert text in capsys.readouterr().out
    assert "| focal loss, alpha 0.25, gamma 2 | 0.250 ± 0.071 | 0.200, 0.300 | 2 |" in text
    assert "<svg" in (tmp_path / "demo.svg").read_text()
