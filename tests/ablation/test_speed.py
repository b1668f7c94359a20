from retinanet.ablation.results import RunResult
from retinanet.ablation.speed import RowSpeed, speed_charts, speed_markdown
from retinanet.ablation.table import Row, Setup, Table

TABLE = Table(
    title="a table",
    setups={"here": Setup(config="quickstart")},
    rows=(
        Row(name="big", paper={"AP": 35.7}, paper_ms=153),
        Row(name="small", paper={"AP": 30.5}, paper_ms=64),
        Row(name="deep", paper={"AP": 31.9}),
        Row(name="not measured", paper={"AP": 1.0}, paper_ms=1),
    ),
)
SPEEDS = {
    "big": RowSpeed("resnet50", 800, 30.0),
    "small": RowSpeed("resnet50", 400, 12.0),
    "deep": RowSpeed("resnet101", 400, 18.0),
}


def run(row: str, seed: int, ap: float) -> RunResult:
    return RunResult(
        row=row, seed=seed, status="finished", metrics={"AP": ap, "AP50": ap, "AP75": ap}, message=None, steps=9,
        seconds=10.0, config_hash="h", commit="abc", computed_on="cpu", versions={},
    )  # fmt: skip


RESULTS = {
    (name, seed): run(name, seed, ap + seed / 100)
    for name, ap in {"big": 0.3, "small": 0.2, "deep": 0.25, "not measured": 0.1}.items()
    for seed in (0, 2)
}


def test_table_of_scores_and_times_by_hand():
    text = speed_markdown(TABLE, "here", RESULTS, SPEEDS, schedule="a short one", command="retinanet ablate x --speed")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[2:] == [
        # Seeds 0 and 2 differ by 2 percent: a standard deviation of sqrt(2). 153 / 64 = 2.39, 30 / 12 = 2.5.
        "| big | 31.0 ± 1.4 | 30.0 | 2.50 | 35.7 | 153 | 2.39 |",
        "| small | 21.0 ± 1.4 | 12.0 | 1.00 | 30.5 | 64 | 1.00 |",
        "| deep | 26.0 ± 1.4 | 18.0 | 1.50 | 31.9 | - | - |",
    ]
    assert "retinanet ablate x --speed" in text and "a short one" in text and "threads" in text


def test_no_paper_columns_without_paper_times():
    rows = [row.model_copy(update={"paper_ms": None}) for row in TABLE.rows]
    table = TABLE.model_copy(update={"rows": tuple(rows)})
    assert "paper" not in speed_markdown(table, "here", RESULTS, SPEEDS, schedule="s", command="c")
    assert len(speed_charts(table, "here", RESULTS, SPEEDS)) == 1


def test_chart_has_one_line_per_backbone():
    here, paper = speed_charts(TABLE, "here", RESULTS, SPEEDS)
    lines = {line.name: (line.x, [round(y, 9) for y in line.y]) for line in here.series}
    # Times are relative to the fastest rows, 12 and 64 ms.
    assert lines == {"resnet50": ([1.0, 2.5], [21.0, 31.0]), "resnet101": ([1.5], [26.0])}
    assert [(line.name, line.x, line.y) for line in paper.series] == [("resnet50", [1.0, 153 / 64], [30.5, 35.7])]
    assert "(12 ms)" in here.x_label and "(64 ms)" in paper.x_label


def test_row_without_a_score_is_omitted():
    unknown = {key: value.model_copy(update={"metrics": {"AP": None}}) for key, value in RESULTS.items()}
    (here,) = speed_charts(TABLE, "here", unknown, SPEEDS)
    assert here.series == []
    assert "| big |" not in speed_markdown(TABLE, "here", unknown, SPEEDS, schedule="s", command="c")
