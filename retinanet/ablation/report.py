"""Report the results of a table as Markdown and as a chart, next to the published results."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple, get_args

from retinanet.ablation.results import RunResult
from retinanet.ablation.table import Row, Table
from retinanet.config.base import APMetric
from retinanet.evaluation.significance import (
    SIGNIFICANCE_LEVEL,
    Comparison,
    Summary,
    detectable_difference,
    holm,
    summarise,
    welch,
)
from retinanet.visualization.plots import Chart, Series

MISSING = "-"
METRICS = get_args(APMetric)


class RowReport(NamedTuple):
    """Summary of all runs of one row."""

    row: Row
    ap: list[float]  # AP of each finished run, percent, ordered by seed
    summaries: dict[str, Summary]  # by metric, percent; empty if no run has finished
    versus: Comparison | None  # AP against the baseline; None for the baseline itself, and if no run has finished
    p: float  # p-value of that comparison, corrected for the number of rows
    unfinished: list[RunResult]  # diverged or failed


class TableReport(NamedTuple):
    """Summary of all rows of a table on one setup."""

    rows: list[RowReport]
    baseline: str | None  # None if no run has finished
    baseline_is_best_row: bool  # True if the table names no baseline that has results


def summarise_table(table: Table, setup: str, results: dict[tuple[str, int], RunResult]) -> TableReport:
    """Summarise the rows of a setup, in table order."""
    rows = list(table.rows_on(setup).values())
    done = {row.name: [result for (name, _), result in sorted(results.items()) if name == row.name] for row in rows}
    finished = {name: [result for result in runs if result.status == "finished"] for name, runs in done.items()}
    ap = {name: _percent(runs, "AP") for name, runs in finished.items()}
    baseline, is_best_row = table.baseline, False
    if not ap.get(baseline or ""):
        with_runs = [name for name in ap if ap[name]]
        baseline = max(with_runs, key=lambda name: statistics.fmean(ap[name]), default=None)
        is_best_row = True
    versus = {name: welch(values, ap[baseline]) for name, values in ap.items() if values and name != baseline}
    corrected = dict(zip(versus, holm([comparison.p for comparison in versus.values()]), strict=True))
    reports = []
    for row in rows:
        metrics = {metric: _percent(finished[row.name], metric) for metric in METRICS}
        summaries = {metric: summarise(values) for metric, values in metrics.items() if values}
        unfinished = [result for result in done[row.name] if result.status != "finished"]
        p = corrected.get(row.name, math.nan)
        reports.append(RowReport(row, ap[row.name], summaries, versus.get(row.name), p, unfinished))
    return TableReport(reports, baseline, is_best_row)


def _percent(runs: list[RunResult], metric: str) -> list[float]:
    values = [run.metrics.get(metric) for run in runs]
    return [100 * value for value in values if value is not None]


def markdown(
    table: Table, setup: str, results: dict[tuple[str, int], RunResult], *, schedule: str, command: str
) -> str:
    """Format the results of a table as Markdown.

    Args:
        schedule: description of the training schedule.
        command: the command that produced the runs.
    """
    report = summarise_table(table, setup, results)
    published = [metric for metric in METRICS if any(metric in row.row.paper for row in report.rows)]
    measured = [metric for metric in METRICS[1:] if metric in ("AP50", "AP75", *published)]
    columns = ["", "AP", "n", *measured, *(f"paper {metric}" for metric in published), "AP difference", "p"]
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    for entry in report.rows:
        cells = [
            escape_cell(entry.row.name) + (" (baseline)" if entry.row.name == report.baseline else ""),
            _ap_text(entry),
            str(len(entry.ap)),
            *(f"{entry.summaries[m].mean:.1f}" if m in entry.summaries else MISSING for m in measured),
            *(f"{entry.row.paper[m]:.1f}" if m in entry.row.paper else MISSING for m in published),
            f"{round(entry.versus.difference, 1) + 0.0:+.1f}" if entry.versus else MISSING,  # avoids -0.0
            format_p(entry.p),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    parts = [
        f"# {table.title}",
        f"Setup `{setup}`, {schedule}.",
        f"`{command}`",
        "\n".join(lines),
        _notes(report),
        *_unfinished(report),
        _origin([results[name, seed] for name, seed in results if name in {entry.row.name for entry in report.rows}]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape_cell(name: str) -> str:
    """Escape a name for a Markdown table cell."""
    return name.replace("|", "\\|")


def _ap_text(entry: RowReport) -> str:
    if not entry.ap:
        return "diverged" if any(run.status == "diverged" for run in entry.unfinished) else MISSING
    return format_mean(entry.summaries["AP"], digits=1)


def format_mean(summary: Summary, *, digits: int) -> str:
    mean = f"{summary.mean:.{digits}f}"
    return mean if math.isnan(summary.deviation) else f"{mean} ± {summary.deviation:.{digits}f}"


def format_p(p: float) -> str:
    """Format a p-value, with a star if it is significant."""
    if math.isnan(p):
        return MISSING
    return ("< 0.001" if p < 0.001 else f"{p:.3f}") + (" *" if p < SIGNIFICANCE_LEVEL else "")


def _notes(report: TableReport) -> str:
    if report.baseline is None:
        return "No run has finished."
    text = "AP in percent, from the evaluation after the last step: mean ± standard deviation over n seeds. "
    if report.baseline_is_best_row:
        text += (
            f"Compared with the best row, {report.baseline!r}. It was selected by its score, so its score and the "
            "differences from it are biased upward. "
        )
    counts = [len(entry.ap) for entry in report.rows if entry.ap]
    if max(counts) < 2:
        return text + "With one seed per row, no significance test is possible: differences may be due to chance."
    tested = [entry for entry in report.rows if not math.isnan(entry.p)]
    if len(counts) > 1 and not tested and min(counts) < 2:
        return text + "A significance test needs at least two seeds of both the row and the baseline."
    deviations = [e.summaries["AP"].deviation for e in report.rows if len(e.ap) > 1]
    common = math.sqrt(statistics.fmean(value**2 for value in deviations))
    if common == 0:
        return text + "All seeds of a row have the same score, so no significance test is possible."
    fewest = min(count for count in counts if count > 1)
    least = detectable_difference(common, fewest, level=SIGNIFICANCE_LEVEL)
    return (
        f"{text}p: two-sided Welch's t-test against the baseline, with Holm's correction for the number of rows; * "
        f"marks p < {SIGNIFICANCE_LEVEL}. With {fewest} seeds per row and the pooled standard deviation "
        f"({common:.2f}) in every row, the smallest difference that is significant in a single uncorrected comparison "
        f"is {least:.1f} AP. Rows with a larger standard deviation need a larger difference."
    )


def _unfinished(report: TableReport) -> list[str]:
    lines = [
        f"- {entry.row.name}, seed {run.seed}: {run.status} after {run.steps} steps: {_one_line(run)}"
        for entry in report.rows
        for run in entry.unfinished
    ]
    return ["Not included in the means:", "\n".join(lines)] if lines else []


def _one_line(run: RunResult) -> str:
    text = " ".join((run.message or "").split())
    return text if len(text) < 300 else text[:297] + "..."


def _origin(results: Sequence[RunResult]) -> str:
    """Describe the number, time, machines, commits and versions of the runs; warn if machines or commits differ."""
    if not results:
        return ""
    commits = sorted({result.commit or "unknown" for result in results})
    torch = sorted({result.versions.get("torch", "unknown") for result in results})
    seconds = statistics.median(result.seconds for result in results)
    machines = sorted({result.computed_on for result in results})
    differing = [name for name, values in (("commits", commits), ("machines", machines)) if len(values) > 1]
    several = (
        f" **The runs used several {' and '.join(differing)}, which may explain differences between rows.**"
        if differing
        else ""
    )
    return (
        f"{len(results)} runs, median {seconds:.0f} s, on {'; '.join(machines)}; commit {', '.join(commits)}; torch "
        f"{', '.join(torch)}.{several}"
    )


def chart(table: Table, setup: str, results: dict[tuple[str, int], RunResult]) -> Chart:
    """Plot the AP of each row, mean and standard deviation, next to the published AP."""
    rows = summarise_table(table, setup, results).rows
    measured = [(place, entry) for place, entry in enumerate(rows) if entry.ap]
    published = [(place, entry.row.paper["AP"]) for place, entry in enumerate(rows) if "AP" in entry.row.paper]
    series = [
        Series(
            f"here, on {setup}{' (short)' if table.setups[setup].short else ''}: mean and standard deviation",
            [place for place, _ in measured],
            [entry.summaries["AP"].mean for _, entry in measured],
            spread=[0.0 if len(entry.ap) < 2 else entry.summaries["AP"].deviation for _, entry in measured],
            style="points",
        ),
        Series("paper, on COCO", [x for x, _ in published], [y for _, y in published], style="points"),
    ]
    return Chart(
        title=table.title,
        x_label="",
        y_label="AP, percent",
        series=[one for one in series if len(one.x)],
        ticks={place: entry.row.name for place, entry in enumerate(rows)},
    )
