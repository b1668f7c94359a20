"""Results of a table -> Markdown for a person, and a chart, with the published figures beside."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple, get_args

from retinanet.ablation.results import RunResult
from retinanet.ablation.table import Row, Table
from retinanet.config.base import APMetric
from retinanet.evaluation.significance import Comparison, Summary, detectable_difference, holm, summarise, welch
from retinanet.visualization.plots import Chart, Series

LEVEL = 0.05  # of significance
NOTHING = "-"
METRICS = get_args(APMetric)


class RowReport(NamedTuple):
    row: Row
    ap: list[float]  # of each finished run, percent, by seed
    summaries: dict[str, Summary]  # by metric, percent; empty where no run is finished
    versus: Comparison | None  # with the baseline, in AP; None for the baseline, and for rows without a run
    p: float  # of that, corrected for all rows
    broken: list[RunResult]  # diverged or failed


class TableReport(NamedTuple):
    rows: list[RowReport]
    baseline: str | None  # None where no run is finished
    chosen_as_best: bool  # the baseline is the row with the highest mean, as the table names none that has results


def summarise_table(table: Table, setup: str, results: dict[tuple[str, int], RunResult]) -> TableReport:
    """Rows in the order of the table, those of the set-up alone."""
    rows = list(table.rows_on(setup).values())
    done = {row.name: [result for (name, _), result in sorted(results.items()) if name == row.name] for row in rows}
    finished = {name: [result for result in runs if result.status == "finished"] for name, runs in done.items()}
    ap = {name: _percent(runs, "AP") for name, runs in finished.items()}
    baseline, chosen = table.baseline, False
    if not ap.get(baseline or ""):
        with_runs = [name for name in ap if ap[name]]
        baseline = max(with_runs, key=lambda name: statistics.fmean(ap[name]), default=None)
        chosen = True
    versus = {name: welch(values, ap[baseline]) for name, values in ap.items() if values and name != baseline}
    corrected = dict(zip(versus, holm([comparison.p for comparison in versus.values()]), strict=True))
    reports = []
    for row in rows:
        metrics = {metric: _percent(finished[row.name], metric) for metric in METRICS}
        summaries = {metric: summarise(values) for metric, values in metrics.items() if values}
        broken = [result for result in done[row.name] if result.status != "finished"]
        p = corrected.get(row.name, math.nan)
        reports.append(RowReport(row, ap[row.name], summaries, versus.get(row.name), p, broken))
    return TableReport(reports, baseline, chosen)


def _percent(runs: list[RunResult], metric: str) -> list[float]:
    values = [run.metrics.get(metric) for run in runs]
    return [100 * value for value in values if value is not None]


def markdown(
    table: Table, setup: str, results: dict[tuple[str, int], RunResult], *, schedule: str, command: str
) -> str:
    """
    Args:
        schedule: of the runs, in words.
        command: that made them.
    """
    report = summarise_table(table, setup, results)
    published = [metric for metric in METRICS if any(metric in row.row.paper for row in report.rows)]
    measured = [metric for metric in METRICS[1:] if metric in ("AP50", "AP75", *published)]
    columns = ["", "AP", "n", *measured, *(f"paper {metric}" for metric in published), "AP difference", "p"]
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    for entry in report.rows:
        cells = [
            cell_text(entry.row.name) + (" (baseline)" if entry.row.name == report.baseline else ""),
            _ap_text(entry),
            str(len(entry.ap)),
            *(f"{entry.summaries[m].mean:.1f}" if m in entry.summaries else NOTHING for m in measured),
            *(f"{entry.row.paper[m]:.1f}" if m in entry.row.paper else NOTHING for m in published),
            f"{round(entry.versus.difference, 1) + 0.0:+.1f}" if entry.versus else NOTHING,  # not -0.0
            p_text(entry.p),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    parts = [
        f"# {table.title}",
        f"Set-up `{setup}`, {schedule}.",
        f"`{command}`",
        "\n".join(lines),
        _explanation(report),
        *_broken(report),
        _origin([results[name, seed] for name, seed in results if name in {entry.row.name for entry in report.rows}]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def cell_text(name: str) -> str:
    """A name that is safe in a cell."""
    return name.replace("|", "\\|")


def _ap_text(entry: RowReport) -> str:
    if not entry.ap:
        return "diverged" if any(run.status == "diverged" for run in entry.broken) else NOTHING
    return spread_text(entry.summaries["AP"], digits=1)


def spread_text(summary: Summary, *, digits: int) -> str:
    mean = f"{summary.mean:.{digits}f}"
    return mean if math.isnan(summary.deviation) else f"{mean} ± {summary.deviation:.{digits}f}"


def p_text(p: float) -> str:
    """With a star where it is significant."""
    if math.isnan(p):
        return NOTHING
    return ("< 0.001" if p < 0.001 else f"{p:.3f}") + (" *" if p < LEVEL else "")


def _explanation(report: TableReport) -> str:
    if report.baseline is None:
        return "No run is finished."
    text = "AP in percent, of the evaluation after the last step: mean ± standard deviation over n seeds. "
    if report.chosen_as_best:
        text += (
            f"Compared with the best row, {report.baseline!r}: having been picked for its score it looks better than "
            "it is, and the differences larger. "
        )
    counts = [len(entry.ap) for entry in report.rows if entry.ap]
    if max(counts) < 2:
        return text + "With one seed there is no spread and no test: differences cannot be told from chance."
    tested = [entry for entry in report.rows if not math.isnan(entry.p)]
    if len(counts) > 1 and not tested and min(counts) < 2:
        return text + "A row or the baseline has one seed, and without a spread of both there is no test."
    deviations = [e.summaries["AP"].deviation for e in report.rows if len(e.ap) > 1]
    common = math.sqrt(statistics.fmean(value**2 for value in deviations))
    if common == 0:
        return text + "All runs of a row came to the same score: without a spread there is no test."
    fewest = min(count for count in counts if count > 1)
    least = detectable_difference(common, fewest, level=LEVEL)
    return (
        f"{text}p: Welch's t-test against the baseline, two-sided, corrected for all rows by Holm's method; * is below "
        f"{LEVEL}. With {fewest} seeds a row, were every row's spread the common one ({common:.2f}), a single "
        f"comparison would call a difference of {least:.1f} AP significant, before correction. Smaller differences "
        "can go unnoticed, and where a row spreads more, larger ones too."
    )


def _broken(report: TableReport) -> list[str]:
    lines = [
        f"- {entry.row.name}, seed {run.seed}: {run.status} after {run.steps} steps: {_one_line(run)}"
        for entry in report.rows
        for run in entry.broken
    ]
    return ["Not in the means:", "\n".join(lines)] if lines else []


def _one_line(run: RunResult) -> str:
    text = " ".join((run.message or "").split())
    return text if len(text) < 300 else text[:297] + "..."


def _origin(results: Sequence[RunResult]) -> str:
    """What the rows were made with: a table of several commits or versions should say so."""
    if not results:
        return ""
    commits = sorted({result.commit or "unknown" for result in results})
    torch = sorted({result.versions.get("torch", "unknown") for result in results})
    seconds = statistics.median(result.seconds for result in results)
    machines = sorted({result.computed_on for result in results})
    differing = [name for name, values in (("commits", commits), ("machines", machines)) if len(values) > 1]
    several = f" **Several {' and '.join(differing)}: rows may differ for that alone.**" if differing else ""
    return (
        f"{len(results)} runs, median {seconds:.0f} s, on {'; '.join(machines)}; commit {', '.join(commits)}; torch "
        f"{', '.join(torch)}.{several}"
    )


def chart(table: Table, setup: str, results: dict[tuple[str, int], RunResult]) -> Chart:
    """AP of each row, mean and spread, beside what was published."""
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
