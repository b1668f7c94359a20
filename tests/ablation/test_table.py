import pytest

from retinanet.ablation.results import config_hash
from retinanet.ablation.table import describe_schedule, load_table, make_jobs, make_valid_jobs, shipped_tables
from retinanet.config.load import load_config
from retinanet.errors import InputError

TABLES = sorted(shipped_tables())
MY_DATA = [f"data.{part}.{key}=x" for part in ("train", "val") for key in ("images", "annotations")]

SMALL = """
title: small
baseline: two
setups:
  here: {config: quickstart, short: true, overrides: {train: {batch_size: 2}}}
  there: {config: quickstart}
rows:
  - {name: one, overrides: {loss: {classification: {gamma: 0.0}}}, paper: {AP: 30.0}}
  - {name: two, overrides: {model: {prior: 0.5}}}
  - {name: elsewhere, setups: [there]}
"""


@pytest.fixture
def write(tmp_path):
    def into_file(text: str):
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        return file

    return into_file


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_the_bundled_tables_are_valid_and_distinct_configs(name):
    table = load_table(name)
    for setup in table.setups:
        jobs = make_jobs(table, setup, num_seeds=1, overrides=MY_DATA)
        assert len({job.row for job in jobs}) == len(jobs) > 1
        configs = [job.cfg for job in jobs]
        assert all(cfg != other for index, cfg in enumerate(configs) for other in configs[:index])


def test_tables_of_the_paper_are_bundled():
    assert {"1a", "1b", "1c", "1d", "1e", "2", "3", "losses", "prior"} <= set(TABLES)
    # Best AP of each table in Lin et al. (2017).
    best = {"1a": 31.1, "1b": 34.0, "1c": 34.2, "1d": 36.0, "1e": 37.8, "2": 40.8}
    assert {name: max(row.paper.get("AP", 0) for row in load_table(name).rows) for name in best} == best


def test_equal_rows_of_several_tables_have_the_same_hash():
    def of(table: str, row: str) -> str:
        return config_hash(make_jobs(load_table(table), "quickstart", num_seeds=1, rows=[row])[0].cfg)

    focal = {of("1b", "gamma 2"), of("1c", "3x3"), of("1d", "focal loss"), of("1e", "18-96")}
    balanced = {of("1a", "alpha .75"), of("1b", "gamma 0"), of("losses", "balanced cross entropy")}
    assert len(focal) == len(balanced) == 1 and focal != balanced
    assert of("1a", "alpha .50") == of("losses", "cross entropy")
    assert of("losses", "focal loss") in focal
    assert of("1b", "gamma 5") == of("losses", "gamma 5") and of("1d", "OHEM 128, NMS .5") == of("losses", "OHEM")


def test_rows_seeds_and_overrides_become_configs(write):
    table = load_table(write(SMALL))
    jobs = make_jobs(table, "here", num_seeds=2, overrides=["train.epochs=null", "train.steps=7"])
    assert [(job.row, job.seed) for job in jobs] == [("one", 0), ("two", 0), ("one", 1), ("two", 1)]
    assert [job.cfg.train.seed for job in jobs] == [0, 0, 1, 1]
    assert [job.cfg.loss.classification.gamma for job in jobs[:2]] == [0.0, 2.0]
    assert [job.cfg.model.prior for job in jobs[:2]] == [0.01, 0.5]
    assert {job.cfg.train.batch_size for job in jobs} == {2} and {job.cfg.train.steps for job in jobs} == {7}
    assert [job.row for job in make_jobs(table, "there", num_seeds=1, rows=["elsewhere"])] == ["elsewhere"]


def test_short_or_changed_schedule_is_described_as_such(write):
    table = load_table(write(SMALL))
    here, there = (make_jobs(table, setup, num_seeds=1)[0].cfg for setup in ("here", "there"))
    assert describe_schedule(table, "here", here).startswith(
        "a short schedule, not the paper's: 2.5 epochs, batch size 2"
    )
    assert describe_schedule(table, "there", there).startswith("the paper's schedule: 2.5 epochs, batch size 8")
    changed = load_config("quickstart", ["train.epochs=1"])
    assert "changed by overrides" in describe_schedule(table, "there", changed)


def test_config_next_to_the_table_is_found(write, tmp_path):
    (tmp_path / "near.yaml").write_text("base: quickstart\ntrain: {batch_size: 3}\n")
    table = load_table(write(SMALL.replace("there: {config: quickstart}", "there: {config: near.yaml}")))
    assert make_jobs(table, "there", num_seeds=1)[0].cfg.train.batch_size == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: small", "titel: small"), "titel: unknown key"),
        (("baseline: two", "baseline: three"), "no row is named 'three', the baseline"),
        (("AP: 30.0", "AP60: 30.0"), "paper.AP60"),
        (("AP: 30.0", "AP: 300.0"), "less than or equal to 100"),
        (("name: two", "name: one"), "duplicate row names: 'one'"),
        (("setups: [there]", "setups: [nowhere]"), "has unknown setups ['nowhere']"),
        (("there: {config: quickstart}", "there: {config: quickstrat}"), "did you mean quickstart?"),
        (("- {name: one,", "- {nam: one,"), "rows.0.name: missing"),
    ],
)
def test_error_in_a_table_is_reported(write, change, message):
    with pytest.raises(InputError) as error:
        load_table(write(SMALL.replace(*change)))
    assert message in str(error.value) and "mine.yaml" in str(error.value)


def test_unknown_names_and_invalid_overrides_are_rejected(write):
    with pytest.raises(InputError, match=r"neither a file nor a bundled table; bundled tables: 1a, 1b"):
        load_table("nonsense")
    table = load_table(write(SMALL))
    with pytest.raises(InputError, match="no setup 'coco'; expected one of here, there"):
        make_jobs(table, "coco", num_seeds=1)
    with pytest.raises(InputError, match="no row 'elsewhere' on here; the rows are 'one', 'two'"):
        make_jobs(table, "here", num_seeds=1, rows=["elsewhere"])
    with pytest.raises(InputError, match=r"(?s)row .one.: .*did you mean .gamma."):
        make_jobs(load_table(write(SMALL.replace("gamma: 0.0", "gama: 0.0"))), "here", num_seeds=1)
    with pytest.raises(InputError, match=r"data\.val is empty"):
        make_jobs(table, "here", num_seeds=1, overrides=["data.val=[]"])
    with pytest.raises(InputError, match="number of seeds with --seeds"):
        make_jobs(table, "here", num_seeds=1, overrides=["train.seed=5"])
    with pytest.raises(InputError, match=r"row 'one': train\.max_hours may stop runs early"):
        make_jobs(table, "here", num_seeds=1, overrides=["train.max_hours=1"])
    with pytest.raises(InputError, match=r"train\.early_stop may stop runs early"):
        make_jobs(table, "here", num_seeds=1, overrides=["train.early_stop=1"])


def test_rows_with_invalid_overrides_are_skipped():
    table = load_table("1d")
    jobs = make_valid_jobs(table, "quickstart", num_seeds=2, overrides=["loss.classification.keep=64"])
    assert {job.row for job in jobs} == {row.name for row in table.rows} - {"focal loss"}
    assert {job.seed for job in jobs} == {0, 1}
    assert make_valid_jobs(table, "quickstart", num_seeds=1) == make_jobs(table, "quickstart", num_seeds=1)
