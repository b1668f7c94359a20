"""The page of a comparison of runs."""

from collections.abc import Sequence

from retinanet.report.runs import RunComparison
from retinanet.report.runs_table import as_markdown, group_columns, group_row
from retinanet.visualization.html import render_page
from retinanet.visualization.plots import Chart, Series, svg_of

COMMAND = "retinanet report"
MAX_POINTS = 400  # of a curve: as many as a screen shows


def render_runs(comparison: RunComparison) -> str:
    """Render the comparison as one HTML page that needs no other file and no network."""
    return render_page(
        "retinanet.report",
        "runs.html",
        {
            "comparison": comparison,
            "columns": group_columns(),
            "rows": [group_row(group) for group in comparison.groups],
            "charts": [svg_of([chart]) for chart in _charts(comparison)],
            "markdown": as_markdown(comparison),
        },
        command=COMMAND,
    )


def _charts(comparison: RunComparison) -> list[Chart]:
    """Curves over steps; those that no run has measured are left out."""
    kinds = (
        ("Training loss", "train", "loss", "right"),
        ("Validation loss", "eval", "loss", "right"),
        ("Validation AP", "eval", "AP", "left"),
    )
    charts = []
    for title, kind, metric, legend in kinds:
        curves = [(run.name, *run.curve(kind, metric)) for run in comparison.runs]
        series = [Series(name, thinned(steps), thinned(values)) for name, steps, values in curves]
        if any(one.x for one in series):
            charts.append(Chart(title, "step", metric, series, legend=legend))
    return charts


def thinned(values: Sequence[float]) -> list[float]:
    """At most `MAX_POINTS` means of as many consecutive values each; the last may be of fewer."""
    size = -(-len(values) // MAX_POINTS) or 1
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return [sum(part) / len(part) for part in parts]
