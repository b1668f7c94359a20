"""Render the page that compares runs."""

from retinanet.report.runs import RunComparison
from retinanet.report.runs_charts import training_curves
from retinanet.report.runs_table import as_markdown, group_columns, group_row
from retinanet.visualization.html import render_page
from retinanet.visualization.plots import svg_of

COMMAND = "retinanet report"


def render_runs(comparison: RunComparison) -> str:
    """Render the comparison as one HTML page that needs no other file and no network."""
    return render_page(
        "retinanet.report",
        "runs.html",
        {
            "comparison": comparison,
            "columns": group_columns(),
            "rows": [group_row(group) for group in comparison.groups],
            "charts": [svg_of([chart]) for chart in training_curves(comparison.runs)],
            "markdown": as_markdown(comparison),
        },
        command=COMMAND,
    )
