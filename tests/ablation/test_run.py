"""Whole tables, figures and the demonstration, through the tool."""

import json
from pathlib import Path

import pytest

from retinanet.ablation import figures, run
from retinanet.ablation.results import ResultsFile, claimed
from retinanet.cli.ablate import main
from retinanet.engine.train import TrainResult
from retinanet.errors import InputError
from retinanet.runtime.stop import EXIT_STOPPED

pytestmark = pytest.mark.usefixtures("process_as_before")


@pytest.fixture
def ablate(tmp_path, tiny_overrides):
    """A table of two rows, one of which may diverge, on the tiny data set; returns the exit code."""
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
    """Gamma tells the rows apart."""
    return f"gamma {cfg.loss.classification.gamma:g}, seed {cfg.train.seed}"


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def no_training(monkeypatch):
    """Lists runs that would be trained, and says they are done."""
    started = []

    def instead(cfg, folder, *, resume):
        assert resume
        started.append(named(cfg))
        return TrainResult(folder, 2, {"AP": 0.25, "APl": float("nan")}, 0.25, "AP", None, 1.0)

    monkeypatch.setattr(run, "train", instead)
    return started


@pytest.mark.slow
def test_a_whole_table(ablate, tmp_path, monkeypatch, capsys):
    assert ablate() == 0
    results = lines(tmp_path / "out")
    assert [(line["row"], line["seed"]) for line in results] == [
        ("focal", 0), ("cross entropy", 0), ("focal", 1), ("cross entropy", 1)]  # fmt: skip
    assert all(line["steps"] == 2 and line["seconds"] > 0 and 0 <= line["metrics"]["AP"] <= 1 for line in results)
    assert len({line["config_hash"] for line in results}) == 4
    assert all(line["versions"]["torch"] for line in results)
    table = (tmp_path / "out/mine.md").read_text()
    assert "| focal (baseline) |" in table and "| cross entropy |" in table and "of the command's own" in table
    assert table in capsys.readouterr().out
    assert "<svg" in (tmp_path / "out/mine.svg").read_text()

    # What is done is not done again; what a cut line leaves out is, from the last checkpoint of its run.
    file = tmp_path / "out/results.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    trained = []
    real = run.train
    monkeypatch.setattr(run, "train", lambda cfg, folder, **rest: trained.append(folder) or real(cfg, folder, **rest))
    assert ablate() == 0
    assert trained == [tmp_path / "out/runs" / results[3]["config_hash"]]
    # Nothing was left to do: its one training step of this start would have been logged anew.
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
def test_a_row_that_diverges_is_written_down_and_the_rest_goes_on(ablate, tmp_path):
    assert ablate("--seeds", "1", rows=("wild", "focal")) == 0
    wild, focal = lines(tmp_path / "out")
    assert wild["status"] == "diverged" and "training diverged" in wild["message"] and wild["metrics"] == {}
    assert focal["status"] == "finished"
    table = (tmp_path / "out/mine.md").read_text()
    assert "| wild | diverged |" in table and "- wild, seed 0: diverged after" in table


@pytest.mark.slow
def test_without_the_prior_training_diverges_and_is_told(tiny_overrides, tmp_path):
    """Section 5.1 of the paper, on the recipe of its table: the other row does not."""
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
    assert written == {"figure_1.svg", "figure_4.svg", "scores.svg", "course.svg", "figures.md"}
    text = (folder / "figures/figures.md").read_text()
    # A checkpoint a step: both are there, each with a line for each of the two losses.
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith(("| 1 |", "| 2 |"))] == list(
        "1122"
    )
    # Of one checkpoint alone there is no course, and it is said what is missing.
    assert main(["figures", str(_alone(folder / "checkpoints/last.pt", tmp_path))]) == 0
    assert "train.keep_checkpoints=20" in (tmp_path / "alone/figures/figures.md").read_text()
    assert not (tmp_path / "alone/figures/course.svg").exists()


def _alone(checkpoint: Path, tmp_path: Path) -> Path:
    (tmp_path / "alone").mkdir()
    copy = tmp_path / "alone/best.pt"
    copy.write_bytes(checkpoint.read_bytes())
    return copy


def test_a_run_that_another_process_has_is_left_to_it(ablate, tmp_path, no_training, capsys):
    assert ablate() == 0
    first = (tmp_path / "out/results.jsonl").read_text().splitlines(keepends=True)[0]
    (tmp_path / "out/results.jsonl").unlink()
    no_training.clear()
    with claimed(tmp_path / f"out/runs/{json.loads(first)['config_hash']}.lock"):
        assert ablate() == 0
    assert no_training == ["gamma 0, seed 0", "gamma 2, seed 1", "gamma 0, seed 1"]
    assert "1 runs are with other processes" in capsys.readouterr().out
    assert ablate() == 0
    assert no_training[3:] == ["gamma 2, seed 0"]


def test_a_run_that_fails_is_tried_again_and_the_rest_goes_on(ablate, tmp_path, no_training, monkeypatch):
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
    def instead(cfg, folder, **rest):
        if named(cfg) == name:
            raise RuntimeError("no memory left")
        return train(cfg, folder, **rest)

    return instead


def test_a_mistake_of_the_user_ends_it_without_a_traceback(ablate, tmp_path, no_training, monkeypatch, capsys, caplog):
    def refuse(cfg, folder, **rest):
        raise InputError("device: cuda:7 cannot be used")

    assert ablate(rows=("cross entropy",)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(run, "train", refuse)
        assert ablate() == 2
    said = capsys.readouterr()
    assert "row 'focal', seed 0: device: cuda:7 cannot be used" in said.err
    assert "Traceback" not in said.err + said.out + caplog.text
    assert len(lines(tmp_path / "out")) == 2


def test_a_run_that_is_told_to_stop_is_no_result(ablate, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "train", lambda cfg, folder, **rest: TrainResult(folder, 1, {}, 0.0, "AP", "SIGTERM", 1.0))
    assert ablate() == EXIT_STOPPED
    assert not (tmp_path / "out/results.jsonl").exists()


def test_a_run_of_another_config_is_another_run(ablate, tmp_path, no_training, capsys):
    assert ablate() == 0
    assert ablate("train.optimizer.lr=0.5", "--report") == 2
    assert "4 runs, none of this table on quickstart with these overrides" in capsys.readouterr().err
    assert ablate("train.optimizer.lr=0.5", rows=("focal",)) == 0
    assert no_training[4:] == ["gamma 2, seed 0", "gamma 2, seed 1"]
    # A table has those of its own config alone; of the first the others are still there.
    assert "| cross entropy | - | 0 |" in (tmp_path / "out/mine.md").read_text()
    assert ablate() == 0 and len(no_training) == 6
    assert "| cross entropy | 25.0 ± 0.0 | 2 |" in (tmp_path / "out/mine.md").read_text()


def test_tables_share_what_is_the_same_run(ablate, tmp_path, no_training):
    assert ablate() == 0
    mine = tmp_path / "mine.yaml"
    mine.write_text(mine.read_text().replace("name: cross entropy", "name: gamma 0").replace("name: focal", "name: FL"))
    mine.write_text(mine.read_text().replace("baseline: focal", "baseline: FL"))
    assert ablate(rows=("gamma 0", "FL")) == 0
    assert len(no_training) == 4
    table = (tmp_path / "out/mine.md").read_text()
    assert "| FL (baseline) | 25.0 ± 0.0 | 2 |" in table and "| gamma 0 | 25.0 ± 0.0 | 2 |" in table


def test_a_mistake_that_all_runs_share_is_no_result(ablate, tmp_path, no_training, capsys):
    assert ablate("data.train.annotations=nowhere.json") == 2
    assert "nowhere.json" in capsys.readouterr().err
    assert no_training == [] and not (tmp_path / "out/results.jsonl").exists()


def test_a_report_alone_trains_nothing(ablate, tmp_path, no_training, capsys):
    assert ablate("--report") == 2
    assert "leave out --report" in capsys.readouterr().err
    ablate("--seeds", "1")
    (tmp_path / "out/mine.md").unlink()
    assert ablate("--report") == 0
    assert "| focal (baseline) | 25.0 |" in (tmp_path / "out/mine.md").read_text()
    assert len(no_training) == 2


def test_a_time_needs_a_network(ablate, tmp_path, no_training, capsys):
    assert ablate("--speed") == 2
    assert "no checkpoint of a finished run of these rows" in capsys.readouterr().err
    assert (tmp_path / "out/mine.md").exists()


def test_torchrun_and_no_seed_are_refused(ablate, monkeypatch, no_training, capsys):
    assert ablate("--seeds", "0") == 2
    assert "--seeds is 0, expected 1 or more" in capsys.readouterr().err
    monkeypatch.setattr(run, "is_launched", lambda: True)
    assert ablate() == 2
    assert "not under torchrun" in capsys.readouterr().err


def test_figures_of_no_checkpoint(tmp_path, capsys):
    assert main(["figures", str(tmp_path / "none.pt")]) == 2
    assert "none.pt: no such checkpoint" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert figures.step_of(Path("step_00000012.pt")) == 12 and figures.step_of(Path("last.pt")) is None


def test_the_demonstration(tmp_path, monkeypatch, capsys):
    from retinanet.ablation import imbalance

    monkeypatch.setattr(imbalance, "train_one", lambda contestant, seed: 0.1 * seed + contestant.gamma / 10)
    assert main(["demo", "--seeds", "2", "--output", str(tmp_path)]) == 0
    text = (tmp_path / "demo.md").read_text()
    assert text in capsys.readouterr().out
    assert "| focal loss, alpha 0.25, gamma 2 | 0.250 ± 0.071 | 0.200, 0.300 | 2 |" in text
    assert "<svg" in (tmp_path / "demo.svg").read_text()
