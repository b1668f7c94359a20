"""Charts of runs: which ones are drawn, and the number of points."""

from retinanet.report.runs import RunRecord
from retinanet.report.runs_charts import MAX_POINTS, thinned, training_curves


def test_only_measured_metrics_have_a_chart():
    lines = [{"kind": "train", "step": 1, "loss": 2.0}, {"kind": "train", "step": 3, "loss": 1.0}]
    (chart,) = training_curves([RunRecord(name="a", config={}, lines=lines)])
    assert (chart.title, [(one.name, one.x, one.y) for one in chart.series]) == (
        "Training loss",
        [("a", [1, 3], [2, 1])],
    )
    assert training_curves([RunRecord(name="a", config={}, lines=[])]) == []


def test_long_curves_are_thinned_by_means():
    assert thinned([1, 2, 3]) == [1, 2, 3]
    assert thinned([]) == []
    values = thinned(range(2 * MAX_POINTS + 1))  # means of three values each, and of the last ones
    assert values[:2] == [1, 4] and len(values) == -(-(2 * MAX_POINTS + 1) // 3)
