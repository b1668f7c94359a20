import pytest

from retinanet.ablation import results
from retinanet.ablation.results import ResultsFile, RunResult, config_hash
from retinanet.ablation.run import known_results, newest_version
from retinanet.ablation.table import load_table, make_jobs
from retinanet.config.load import load_config
from retinanet.errors import InputError
from tests.helpers.processes import REPO


def result(config_hash: str, *, status: str = "finished", ap: float = 0.5) -> RunResult:
    return RunResult(
        row="a row", seed=0, status=status, metrics={"AP": ap, "APl": None}, message=None, steps=2, seconds=1.5,
        config_hash=config_hash, commit=None, computed_on="cpu", versions={"torch": "2"},
    )  # fmt: skip


def test_read_returns_the_appended_results(tmp_path):
    file = ResultsFile(tmp_path)
    assert file.read() == {}
    for one in (result("a"), result("b")):
        file.append(one)
    assert file.read() == {"a": result("a"), "b": result("b")}


def test_partial_last_line_is_ignored_and_then_removed(tmp_path):
    file = ResultsFile(tmp_path)
    file.append(result("a"))
    file.append(result("b"))
    whole = file.path.read_bytes()
    for cut in range(len(whole) // 2, len(whole)):
        file.path.write_bytes(whole[:cut])
        assert list(file.read()) == ["a"]
        file.append(result("c"))
        assert list(file.read()) == ["a", "c"]


def test_partial_first_line_is_removed(tmp_path):
    file = ResultsFile(tmp_path)
    file.path.write_bytes(b'{"row": "a", "se')
    file.append(result("b"))
    assert list(file.read()) == ["b"]


def test_later_result_replaces_an_earlier_one(tmp_path):
    file = ResultsFile(tmp_path)
    file.append(result("a", status="failed"))
    assert not file.read()["a"].is_final
    file.append(result("a"))
    assert file.read()["a"].is_final


def test_invalid_line_is_reported_by_number(tmp_path):
    file = ResultsFile(tmp_path)
    file.append(result("a"))
    with open(file.path, "a") as opened:
        opened.write('{"row": "b", "AP": 1}\n')
    with pytest.raises(InputError, match=r"results\.jsonl: line 2 is not a valid result"):
        file.read()


def test_hash_depends_only_on_what_affects_the_result():
    def of(*overrides: str) -> str:
        return config_hash(load_config("quickstart", list(overrides)))

    assert of() == of("device=cuda:3", "data.workers=7", "train.keep_checkpoints=9")
    others = [of(change) for change in ("train.seed=1", "train.optimizer.lr=0.1", "postprocess.nms_iou=0.6")]
    assert len({of(), *others}) == 4
    # An explicit default equals an omitted one. train.steps has no default.
    assert of() == of("train.seed=0", "postprocess.nms_iou=0.5", "loss.classification={type: focal, gamma: 2.0}")
    steps = [of("train.epochs=null", f"train.steps={count}") for count in (1, 2)]
    assert len({of(), *steps}) == 3
    # Losses with equal parameters differ by their type.
    losses = [of(f"loss.classification={{type: {kind}, alpha: 0.25}}") for kind in ("focal", "cross_entropy")]
    assert losses[0] == of() != losses[1]


def test_new_key_at_its_default_keeps_the_hash(monkeypatch):
    """Simulate an earlier schema without the key."""
    before = config_hash(load_config("quickstart"))
    whole = results.flat_config
    monkeypatch.setattr(results, "flat_config", lambda cfg: {**whole(cfg), "train.new_key": None})
    assert config_hash(load_config("quickstart")) == before
    assert config_hash(load_config("quickstart"), version=results.RESULTS_VERSION) == before
    assert config_hash(load_config("quickstart"), version=results.RESULTS_VERSION + 1) != before


TABLES = [("1b", "quickstart"), ("1c", "quickstart"), ("1d", "quickstart")]


@pytest.mark.parametrize(("table", "setup"), TABLES)
def test_recorded_results_are_found_under_the_current_keys(table, setup):
    """`retinanet ablate --report` still finds the results in benchmarks/results, although config keys were renamed."""
    folder = REPO / "benchmarks" / "results" / "ablate" / setup
    jobs = make_jobs(load_table(table), setup, num_seeds=1)
    assert newest_version(jobs, folder) == 1  # from before each image was used exactly once per epoch
    found = known_results(jobs, folder, version=1)
    assert jobs and found.keys() == {(job.row, job.seed) for job in jobs}
    assert known_results(jobs, folder) == {}  # results of different versions are never mixed


def test_newest_version_is_the_highest_with_a_result(tmp_path):
    jobs = make_jobs(load_table("1b"), "quickstart", num_seeds=1)[:2]
    assert newest_version(jobs, tmp_path) == results.RESULTS_VERSION
    for job in jobs:
        ResultsFile(tmp_path).append(result(config_hash(job.cfg, version=1), ap=0.1))
    assert newest_version(jobs, tmp_path) == 1
    assert len(known_results(jobs, tmp_path, version=1)) == 2
    ResultsFile(tmp_path).append(result(config_hash(jobs[1].cfg), ap=0.2))
    assert newest_version(jobs, tmp_path) == results.RESULTS_VERSION > 1
    found = known_results(jobs, tmp_path)
    assert {run: entry.metrics["AP"] for run, entry in found.items()} == {(jobs[1].row, jobs[1].seed): 0.2}
