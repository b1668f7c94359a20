"""A comparison of runs as Markdown to paste, and as JSON."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from retinanet.evaluation.significance import Summary, summarise
from retinanet.report.runs import METRICS, SEED, RunComparison, RunGroup
from retinanet.runtime.console import escape_controls


def group_columns() -> list[str]:
    """The headings of `group_row`."""
    return ["run", "seeds", "step", *METRICS, "best"]


def group_row(group: RunGroup) -> list[str]:
    """One row of the table of groups: mean and standard deviation of each metric, and the best evaluations."""
    behind = len(group.runs) - len(group.finished)
    return [
        group.name,
        ", ".join(map(str, group.seeds)),
        "no evaluation" if group.step is None else f"{group.step}{f' ({behind} behind)' if behind else ''}",
        *(describe_summary(group.summary(metric)) for metric in METRICS),
        describe_best(group),
    ]


def describe_summary(summary: Summary | None) -> str:
    """Mean and spread, such as `0.451 ± 0.004`; the mean alone for a single run."""
    if summary is None:
        return "-"
    spread = "" if math.isnan(summary.deviation) else f" ± {summary.deviation:.3f}"
    return f"{summary.mean:.3f}{spread}"


def describe_best(group: RunGroup) -> str:
    """The best evaluations of a group, such as `AP 0.451 at 400`; for several runs, their mean and spread."""
    name = group.runs[0].best_metric
    found = [run.best for run in group.runs if run.best]
    if not found:
        return "-"
    at = f" at {found[0]['step']}" if len(found) == 1 else ""
    return f"{name} {describe_summary(summarise([line[name] for line in found]))}{at}"


def as_markdown(comparison: RunComparison) -> str:
    """The comparison as Markdown tables, and sentences about significance."""
    blocks = [_table(group_columns(), map(group_row, comparison.groups))]
    if any(len(group.finished) > 1 for group in comparison.groups):
        blocks.append("Mean ± standard deviation over runs that differ only in train.seed.")
    blocks += [_escaped(sentence) for sentence in comparison.sentences]
    if comparison.differences:
        rows = ([row.key, *row.values] for row in comparison.differences)
        blocks.append(_table(["config key", *(run.name for run in comparison.runs)], rows))
    elif len(comparison.runs) > 1:
        blocks.append("The configs of the runs are the same.")
    return "\n\n".join(blocks)


def as_json(comparison: RunComparison) -> dict[str, Any]:
    """The comparison as JSON values; NaN becomes null."""
    return {
        "runs": [
            {
                "name": run.name,
                "seed": run.config.get(SEED),
                "final": run.final,
                "best": run.best,
                "best_metric": run.best_metric,
            }
            for run in comparison.runs
        ],
        "groups": [
            {
                "runs": [run.name for run in group.runs],
                "seeds": group.seeds,
                "step": group.step,
                "metrics": {metric: _summary(group.summary(metric)) for metric in METRICS},
            }
            for group in comparison.groups
        ],
        "tests": [
            {"group": test.group.name, "difference": test.difference, "p": _or_none(test.p)}
            for test in comparison.tests
        ],
        "differences": [row._asdict() for row in comparison.differences],
    }


def _summary(summary: Summary | None) -> dict[str, Any] | None:
    return summary and {"mean": summary.mean, "deviation": _or_none(summary.deviation), "count": summary.count}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _escaped(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, on one line."""
    text = escape_controls(" ".join(text.split()))
    for letter in "\\|<*`[":
        text = text.replace(letter, "\\" + letter)
    return text
