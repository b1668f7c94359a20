import pytest

from retinanet.ablation.report import chart, markdown, summarise_table
from retinanet.ablation.results import RunResult
from retinanet.ablation.table import Row, Setup, Table
from retinanet.evaluation.significance import holm, welch

TABLE = Table(
    title="a table",
    baseline="base",
    setups={"here": Setup(config="quickstart", short=True)},
    rows=(
        Row(name="base", paper={"AP": 31.1, "AP50": 49.4}),
        Row(name="better", paper={"AP": 34.0}),
        Row(name="worse"),
        Row(name="wild"),
        Row(name="elsewhere", setups=()),
    ),
)


def runs(row: str, *values: float) -> dict[tuple[str, int], RunResult]:
    return {
        (row, seed): RunResult(
            row=row, seed=seed, status="finished", metrics={"AP": ap, "AP50": 2 * ap, "AP75": None}, message=None,
            steps=9, seconds=10.0, config_hash="h", commit="abc", computed_on="cpu, float32",
            versions={"torch": "2.14"},
        )
        for seed, ap in enumerate(values)
    }  # fmt: skip


def unfinished(row: str, status: str, message: str) -> dict[tuple[str, int], RunResult]:
    values = {"status": status, "message": message, "metrics": {}, "steps": 6}
    return {(row, 0): runs(row, 0.0)[row, 0].model_copy(update=values)}


RESULTS = {
    **runs("base", 0.20, 0.22, 0.24),
    **runs("better", 0.30, 0.31, 0.35),
    **runs("worse", 0.19, 0.23, 0.21),
    **unfinished("wild", "diverged", "step 7: training\ndiverged"),
}


def table_rows(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return {(cells := [cell.strip() for cell in line.strip("|").split("|")])[0]: cells[1:] for line in lines}


def test_means_and_differences_by_hand():
    rows = table_rows(markdown(TABLE, "here", RESULTS, schedule="short", command="do"))
    assert list(rows) == ["base (baseline)", "better", "worse", "wild"]
    # 20, 22, 24: mean 22, deviation 2. 30, 31, 35: mean 32, deviation sqrt((4 + 1 + 9) / 2) = 2.6.
    assert rows["base (baseline)"] == ["22.0 ± 2.0", "3", "44.0", "-", "31.1", "49.4", "-", "-"]
    assert rows["better"][:7] == ["32.0 ± 2.6", "3", "64.0", "-", "34.0", "-", "+10.0"]
    assert rows["worse"][6] == "-1.0"
    assert rows["wild"] == ["diverged", "0", "-", "-", "-", "-", "-", "-"]


def test_ap_by_object_size_is_shown_if_the_paper_gives_it():
    table = TABLE.model_copy(update={"rows": (Row(name="base", paper={"AP": 39.1, "APs": 21.8}), Row(name="better"))})
    measured = {key: run.model_copy(update={"metrics": run.metrics | {"APs": 0.125, "APl": 0.5}})
                for key, run in runs("base", 0.2, 0.22).items()}  # fmt: skip
    text = markdown(table, "here", measured, schedule="s", command="c")
    assert "|  | AP | n | AP50 | AP75 | APs | paper AP | paper APs | AP difference | p |" in text
    assert table_rows(text)["base (baseline)"][4:7] == ["12.5", "39.1", "21.8"]
    assert "APs" not in markdown(TABLE, "here", RESULTS, schedule="s", command="c")


def test_p_values_are_corrected_for_the_number_of_rows():
    report = summarise_table(TABLE, "here", RESULTS)
    p = {entry.row.name: entry.p for entry in report.rows}
    raw = [welch([30, 31, 35], [20, 22, 24]).p, welch([19, 23, 21], [20, 22, 24]).p]
    assert [p["better"], p["worse"]] == pytest.approx(holm(raw))
    rows = table_rows(markdown(TABLE, "here", RESULTS, schedule="short", command="do"))
    assert rows["better"][-1] == f"{2 * raw[0]:.3f} *" and "*" not in rows["worse"][-1]


def test_best_row_replaces_a_missing_baseline_with_a_warning():
    results = {key: value for key, value in RESULTS.items() if key[0] != "base"}
    report = summarise_table(TABLE, "here", results)
    assert report.baseline == "better" and report.baseline_is_best_row
    assert "It was selected by its score" in markdown(TABLE, "here", results, schedule="short", command="do")
    assert not summarise_table(TABLE, "here", RESULTS).baseline_is_best_row


def test_report_explains_the_test_and_lists_unfinished_runs():
    text = markdown(TABLE, "here", RESULTS, schedule="a short schedule", command="retinanet ablate x")
    assert "a short schedule" in text and "retinanet ablate x" in text
    # Deviations 2, sqrt(7), 2: together sqrt((4 + 7 + 4) / 3) = 2.236, times 2.266958 (four degrees of freedom).
    assert "the pooled standard deviation (2.24)" in text and "comparison is 5.1 AP" in text
    assert "- wild, seed 0: diverged after 6 steps: step 7: training diverged" in text
    assert "on cpu, float32; commit abc; torch 2.14" in text

    one = markdown(TABLE, "here", runs("base", 0.2) | runs("better", 0.3), schedule="s", command="c")
    assert "With one seed per row, no significance test is possible" in one and "nan" not in one
    same = markdown(TABLE, "here", runs("base", 0.0, 0.0) | runs("worse", 0.0, 0.0), schedule="s", command="c")
    assert "All seeds of a row have the same score" in same
    assert "No run has finished." in markdown(TABLE, "here", {}, schedule="s", command="c")
    only = markdown(TABLE, "here", unfinished("base", "failed", "no memory"), schedule="s", command="c")
    assert "failed after 6 steps: no memory" in only


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"commit": "def"}, "**The runs used several commits, which"),
        ({"computed_on": "cuda, bfloat16"}, "**The runs used several machines, which"),
    ],
)
def test_several_commits_or_machines_cause_a_warning(change, message):
    mixed = RESULTS | {("base", 0): RESULTS["base", 0].model_copy(update=change)}
    assert message in markdown(TABLE, "here", mixed, schedule="s", command="c")
    assert "**" not in markdown(TABLE, "here", RESULTS, schedule="s", command="c")


def test_no_p_value_with_a_single_seed_and_the_smallest_sample_sets_the_detectable_difference():
    uneven = runs("base", 0.2) | runs("better", 0.30, 0.31, 0.35)
    text = markdown(TABLE, "here", uneven, schedule="s", command="c")
    assert "at least two seeds of both the row and the baseline" in text and "Welch" not in text
    # With 2 and 3 seeds, the detectable difference is that of 2 seeds.
    uneven = runs("base", 0.2, 0.22) | runs("better", 0.30, 0.31, 0.35)
    assert "With 2 seeds per row" in markdown(TABLE, "here", uneven, schedule="s", command="c")


def test_zero_difference_is_not_negative():
    close = runs("base", 0.2, 0.2) | runs("worse", 0.1999, 0.2)
    assert table_rows(markdown(TABLE, "here", close, schedule="s", command="c"))["worse"][6] == "+0.0"


def test_pipe_in_a_name_is_escaped():
    table = TABLE.model_copy(update={"rows": (Row(name="a|b"),), "baseline": None})
    assert "| a\\|b (baseline) |" in markdown(table, "here", runs("a|b", 0.2), schedule="s", command="c")


def test_chart_shows_measured_and_published_ap():
    drawn = chart(TABLE, "here", RESULTS)
    here, paper = drawn.series
    assert drawn.ticks == {0: "base", 1: "better", 2: "worse", 3: "wild"}
    assert list(here.x) == [0, 1, 2] and here.y == pytest.approx([22, 32, 21])
    assert here.spread == pytest.approx([2, 7**0.5, 2])
    assert (list(paper.x), list(paper.y)) == ([0, 1], [31.1, 34.0])
    assert "short" in here.name
