"""Compare runs: final metrics with their spread over seeds, significance, and the config keys that differ."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from retinanet.config.facts import affects_results
from retinanet.evaluation.significance import Summary, holm, summarise, welch

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "loss")  # of the last evaluation
SEED = "train.seed"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as recorded in its folder."""

    name: str  # the folder as the user named it
    config: dict[str, Any]  # values by dotted key
    lines: Sequence[dict[str, Any]]  # of `metrics.jsonl`, in order of their steps

    @property
    def final(self) -> dict[str, Any] | None:
        """The last evaluation; None if there is none."""
        return next((line for line in reversed(self.lines) if line["kind"] == "eval"), None)

    @property
    def best(self) -> dict[str, Any] | None:
        """The evaluation with the best `train.best_metric`, whose weights are in `best.pt`; None if there is none."""
        name = self.best_metric
        found = [line for line in self.lines if line["kind"] == "eval" and line.get(name) is not None]
        return (min if name == "loss" else max)(found, key=lambda line: line[name], default=None)

    @property
    def best_metric(self) -> str:
        """The metric by which the run chose its best checkpoint."""
        return str(self.config.get("train.best_metric", "AP"))

    def value(self, metric: str) -> float:
        """A metric of the last evaluation; NaN if it was not measured."""
        return _number((self.final or {}).get(metric))

    def curve(self, kind: str, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric.

        Args:
            kind: "train" or "eval".
        """
        lines = [line for line in self.lines if line["kind"] == kind and line.get(metric) is not None]
        return [line["step"] for line in lines], [float(line[metric]) for line in lines]


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs whose configs agree in every key that affects results, except `train.seed`."""

    runs: tuple[RunRecord, ...]

    @property
    def name(self) -> str:
        """The name of the first run, and the number of the others."""
        others = len(self.runs) - 1
        return self.runs[0].name + (f" and {others} more" if others else "")

    @property
    def seeds(self) -> list[Any]:
        """The seed of each run."""
        return [run.config.get(SEED) for run in self.runs]

    @property
    def step(self) -> int | None:
        """The step of the last evaluation of any of the runs; None if there is no evaluation."""
        return max((run.final["step"] for run in self.runs if run.final), default=None)

    @property
    def finished(self) -> list[RunRecord]:
        """The runs that were evaluated at `step`. The others are behind: their metrics are not comparable yet."""
        return [run for run in self.runs if run.final and run.final["step"] == self.step]

    def values(self, metric: str) -> list[float]:
        """A metric of the last evaluation of each finished run, excluding NaN."""
        return [value for run in self.finished if not math.isnan(value := run.value(metric))]

    def summary(self, metric: str) -> Summary | None:
        """Mean and standard deviation over the runs; None if the metric was not measured."""
        values = self.values(metric)
        return summarise(values) if values else None


class Difference(NamedTuple):
    """A config key whose value is not the same in all runs."""

    key: str
    values: list[str]  # of each run, as JSON; "-" if its config lacks the key
    affects_results: bool


class GroupTest(NamedTuple):
    """Whether the AP of a group differs from that of the first group."""

    group: RunGroup
    difference: float  # mean AP of the group minus that of the first
    p: float  # Welch's test, Holm's correction; NaN if a group has fewer than two runs, or no spread


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Runs and the results of comparing them."""

    runs: tuple[RunRecord, ...]
    groups: tuple[RunGroup, ...]
    differences: list[Difference]  # keys that affect results first
    tests: list[GroupTest]  # of all groups that were evaluated, except the first

    @property
    def sentences(self) -> list[str]:
        """The results of the tests in words."""
        return [_describe(self.groups[0], test) for test in self.tests]


def compare_runs(runs: Sequence[RunRecord]) -> RunComparison:
    """Group runs by their configs, and compare the groups with the first.

    Args:
        runs: at least one.
    """
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        relevant = {key: value for key, value in run.config.items() if key != SEED and affects_results(key)}
        groups.setdefault(json.dumps(relevant, sort_keys=True), []).append(run)
    grouped = tuple(RunGroup(runs=tuple(members)) for members in groups.values())
    return RunComparison(runs=tuple(runs), groups=grouped, differences=_differences(runs), tests=_tests(grouped))


def _differences(runs: Sequence[RunRecord]) -> list[Difference]:
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = []
    for key in keys:
        values = [json.dumps(run.config[key], ensure_ascii=False) if key in run.config else "-" for run in runs]
        if len(set(values)) > 1:
            rows.append(Difference(key, values, affects_results(key)))
    return sorted(rows, key=lambda row: not row.affects_results)


def _tests(groups: Sequence[RunGroup]) -> list[GroupTest]:
    first = groups[0].values("AP")
    others = [group for group in groups[1:] if group.values("AP")] if first else []
    results = [welch(group.values("AP"), first) for group in others]
    corrected = holm([result.p for result in results])
    return [GroupTest(group, result.difference, p) for group, result, p in zip(others, results, corrected, strict=True)]


def _describe(first: RunGroup, test: GroupTest) -> str:
    higher = "higher" if test.difference >= 0 else "lower"
    text = f"{test.group.name}: AP is {abs(test.difference):.3f} {higher} than that of {first.name}"
    counts = [len(group.values("AP")) for group in (first, test.group)]
    if min(counts) < 2:
        return f"{text}; whether this is chance cannot be tested: it needs at least two seeds of each"
    if math.isnan(test.p):
        return f"{text}; whether this is chance cannot be tested: the runs of each have the same AP"
    verdict = "more than chance explains" if test.p < 0.05 else "which may be chance"
    return f"{text}, {verdict} (p = {test.p:.2g}, Welch's test over {counts[1]} and {counts[0]} runs)"


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
