import subprocess
import sys

import pytest

from retinanet.ablation import results
from retinanet.ablation.results import ResultsFile, RunResult, claimed, config_hash
from retinanet.config.load import load_config
from retinanet.errors import InputError
from tests.processes import ENVIRONMENT


def result(config_hash: str, *, status: str = "finished", ap: float = 0.5) -> RunResult:
    return RunResult(
        row="a row", seed=0, status=status, metrics={"AP": ap, "APl": None}, message=None, steps=2, seconds=1.5,
        config_hash=config_hash, commit=None, computed_on="cpu", versions={"torch": "2"},
    )  # fmt: skip


def test_what_was_written_is_read(tmp_path):
    file = ResultsFile(tmp_path)
    assert file.read() == {}
    for one in (result("a"), result("b")):
        file.append(one)
    assert file.read() == {"a": result("a"), "b": result("b")}


def test_a_cut_line_is_no_result_and_the_next_one_is_whole(tmp_path):
    file = ResultsFile(tmp_path)
    file.append(result("a"))
    file.append(result("b"))
    whole = file.path.read_bytes()
    for cut in range(len(whole) // 2, len(whole)):
        file.path.write_bytes(whole[:cut])
        assert list(file.read()) == ["a"]
        file.append(result("c"))
        assert list(file.read()) == ["a", "c"]


def test_a_cut_first_line_leaves_an_empty_file(tmp_path):
    file = ResultsFile(tmp_path)
    file.path.write_bytes(b'{"row": "a", "se')
    file.append(result("b"))
    assert list(file.read()) == ["b"]


def test_the_last_attempt_counts(tmp_path):
    file = ResultsFile(tmp_path)
    file.append(result("a", status="failed"))
    assert not file.read()["a"].is_final
    file.append(result("a"))
    assert file.read()["a"].is_final


def test_a_foreign_line_is_named(tmp_path):
    file = ResultsFile(tmp_path)
    file.append(result("a"))
    with open(file.path, "a") as opened:
        opened.write('{"row": "b", "AP": 1}\n')
    with pytest.raises(InputError, match=r"results\.jsonl: line 2 is no result of a run"):
        file.read()


def test_one_process_has_a_run(tmp_path):
    code = "from pathlib import Path; from retinanet.ablation.results import claimed\n"
    code += f"with claimed(Path({str(tmp_path / 'run.lock')!r})) as ours: print(ours)"

    def asked_elsewhere() -> str:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT
        ).stdout.strip()

    with claimed(tmp_path / "run.lock") as ours:
        assert ours
        assert asked_elsewhere() == "False"
    assert asked_elsewhere() == "True"


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = "import os, signal; from pathlib import Path; from retinanet.ablation.results import claimed\n"
    code += f"with claimed(Path({str(tmp_path / 'run.lock')!r})): os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode < 0
    with claimed(tmp_path / "run.lock") as ours:
        assert ours


def test_the_hash_is_of_what_the_result_depends_on():
    def of(*overrides: str) -> str:
        return config_hash(load_config("quickstart", list(overrides)))

    assert of() == of("device=cuda:3", "data.workers=7", "train.keep_checkpoints=9")
    others = [of(change) for change in ("train.seed=1", "train.optimizer.lr=0.1", "postprocess.nms_iou=0.6")]
    assert len({of(), *others}) == 4
    # A default that is written out is that default; one step is not the default of a number of steps.
    assert of() == of("train.seed=0", "postprocess.nms_iou=0.5", "loss.classification={type: focal, gamma: 2.0}")
    steps = [of("train.epochs=null", f"train.steps={count}") for count in (1, 2)]
    assert len({of(), *steps}) == 3
    # Of two losses the values that are the default of another one are told apart by their type.
    losses = [of(f"loss.classification={{type: {kind}, alpha: 0.25}}") for kind in ("focal", "cross_entropy")]
    assert losses[0] == of() != losses[1]


def test_a_new_key_at_its_default_makes_no_other_run(monkeypatch):
    """As if the schema of before had not had it."""
    before = config_hash(load_config("quickstart"))
    whole = results.flat_config
    monkeypatch.setattr(results, "flat_config", lambda cfg: {**whole(cfg), "train.new_key": None})
    assert config_hash(load_config("quickstart")) == before
    monkeypatch.setattr(results, "DEFAULTS", results.DEFAULTS + 1)
    assert config_hash(load_config("quickstart")) != before
