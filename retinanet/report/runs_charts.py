"""Charts of metrics against training steps, with a curve per run."""

from collections.abc import Sequence

from retinanet.report.runs import RunRecord
from retinanet.visualization.plots import Chart, Series

MAX_POINTS = 400  # per curve: as many as a screen can show


def training_curves(runs: Sequence[RunRecord]) -> list[Chart]:
    """Charts of losses and AP against steps; empty charts are omitted."""
    kinds = (
        ("Training loss", "train", "loss", "right"),
        ("Validation loss", "eval", "loss", "right"),
        ("Validation AP", "eval", "AP", "left"),
    )
    charts = []
    for title, kind, metric, legend in kinds:
        curves = [(run.name, *run.curve(kind, metric)) for run in runs]
        series = [Series(name, thinned(steps), thinned(values)) for name, steps, values in curves]
        if any(one.x for one in series):
            charts.append(Chart(title, "step", metric, series, legend=legend))
    return charts


def thinned(values: Sequence[float]) -> list[float]:
    """Average runs of consecutive values, so that at most `MAX_POINTS` remain; the last run may be shorter."""
    size = -(-len(values) // MAX_POINTS) or 1
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return [sum(part) / len(part) for part in parts]
