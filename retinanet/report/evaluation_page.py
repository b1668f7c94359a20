"""Render the evaluation page as HTML."""

import math
from typing import NamedTuple

import numpy as np

from retinanet.evaluation.bootstrap import Interval
from retinanet.evaluation.detection_kinds import BOTH, ERROR_KINDS, KINDS
from retinanet.report.evaluation import GROUPS, EvaluationReport, describe_label_error
from retinanet.report.evaluation_charts import (
    calibration_chart,
    histogram_chart,
    precision_recall_chart,
    threshold_chart,
)
from retinanet.report.images import image_names
from retinanet.visualization.html import render_page
from retinanet.visualization.plots import svg_of

COMMAND = "retinanet eval"  # recorded in the page: only a page written by this command may be replaced
MAX_CURVES = 40  # number of classes with charts, to limit the size of the page
OPEN_CURVES = 4  # number of these that are shown expanded
MAX_CONFUSED = 30  # rows of the confusion matrix that fit on a screen
MAX_SUSPECTED = 100  # rows of the table of suspected label errors
MANY_ROWS = 20  # a longer table scrolls within the page
MEANINGS = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "objects below 32² pixels",
    "APm": "32² to 96² pixels",
    "APl": "objects above 96² pixels",
    "AR1": "recall with 1 detection per image",
    "AR10": "recall with 10 detections per image",
    "AR100": "recall with 100 detections per image",
    "ARs": "recall of objects below 32² pixels",
    "ARm": "recall of objects of 32² to 96² pixels",
    "ARl": "recall of objects above 96² pixels",
}


class _Confusion(NamedTuple):
    """The part of a confusion matrix that the page shows: C classes, and background in the last row and column."""

    names: list[str]  # C
    counts: np.ndarray  # (C + 1, C + 1)
    shares: np.ndarray  # (C + 1, C + 1), counts as fractions of the row sums of the whole matrix


class _ClassCharts(NamedTuple):
    """Charts of one class, as SVG."""

    name: str
    charts: list[str]


def render_evaluation(report: EvaluationReport) -> str:
    """Render the report as one HTML page that needs no other file and no network; all text is escaped."""
    errors, analysis = report.errors, report.analysis
    intervals = {} if analysis.intervals is None else analysis.intervals.metrics
    metrics = [
        (name, MEANINGS.get(name, ""), value, intervals.get(name)) for name, value in report.scores.metrics.items()
    ]
    views = report.images
    shown_groups = {reason.group for view in views for reason in view.reasons}
    score_charts = (calibration_chart(errors.calibration), histogram_chart(errors.histogram))
    labels = sorted({box.label for view in views for box in (*view.objects, *view.detections)})
    kinds = {box.kind for view in views for box in view.detections}
    names = image_names(report.dataset.paths)
    values = {
        "image_names": names,
        "report": report,
        "number": _number,
        "interval": _interval,
        "signed": _signed,
        "metrics": metrics,
        "many_rows": MANY_ROWS,
        "charts": _class_charts(report),
        "open_curves": OPEN_CURVES,
        "confusion": _confusion(report),
        "score_charts": [svg_of([chart]) for chart in score_charts],
        "training": [svg_of([chart]) for chart in report.training],
        "suspected": [
            (names[error.image_index], describe_label_error(report.dataset, error))
            for error in errors.label_errors[:MAX_SUSPECTED]
        ],
        "thresholds": errors.thresholds.tolist(),
        "groups": [group for group in GROUPS if group in shown_groups],
        "labels": labels,
        "kinds": [("missed", "missed objects"), *((kind, _errors_of(kind)) for kind in ERROR_KINDS if kind in kinds)],
    }
    scripts = ["tables.js", "images.js"]
    return render_page("retinanet.report", "evaluation.html", values, command=COMMAND, scripts=scripts)


def _errors_of(kind: str) -> str:
    return f"errors of {'classification and localisation' if kind == KINDS[BOTH] else kind}"


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def _interval(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.low):
        return "–"
    return f"{interval.low:.3f} to {interval.high:.3f}".replace("-", "−")


def _class_charts(report: EvaluationReport) -> list[_ClassCharts]:
    """Charts of the classes with objects; only of those with the lowest AP if there are more than `MAX_CURVES`."""
    with_objects = [label for label, curve in enumerate(report.curves) if curve.num_objects]
    classes = report.analysis.classes
    shown = sorted(sorted(with_objects, key=lambda label: classes[label].ap)[:MAX_CURVES])
    rows = []
    for label in shown:
        name, point = classes[label].name, classes[label].point
        curves = {"IoU ≥ 0.5": report.curves[label], "IoU ≥ 0.75": report.strict_curves[label]}
        charts = [precision_recall_chart(name, curves, point), threshold_chart(name, report.curves[label], point)]
        rows.append(_ClassCharts(name, [svg_of([chart]) for chart in charts]))
    return rows


def _confusion(report: EvaluationReport) -> _Confusion:
    """The confusion matrix; only of the most confused classes if there are more than `MAX_CONFUSED`."""
    counts = report.errors.confusion
    num_classes = len(report.dataset.class_names)
    between = counts[:-1, :-1] - np.diag(np.diag(counts[:-1, :-1]))
    order = np.lexsort((-counts[:-1].sum(axis=1), -between.sum(axis=0) - between.sum(axis=1)))
    chosen = np.sort(order[:MAX_CONFUSED])
    rows = np.append(chosen, num_classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [report.dataset.class_names[label] for label in chosen.tolist()]
    return _Confusion(names, counts[np.ix_(rows, rows)], shares[np.ix_(rows, rows)])
