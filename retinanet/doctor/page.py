"""Render a check report as one HTML page that needs no other file and no network."""

import numpy as np

from retinanet.data.build import eval_shorter
from retinanet.doctor.anchors import IOU_LEVELS, AnchorReport, MatchSummary, plan_evaluation, resized_boxes
from retinanet.doctor.check import CheckReport
from retinanet.doctor.views import ANCHOR, CROWD, LEARNT, UNMATCHED
from retinanet.formats.dataset import Dataset
from retinanet.visualization.draw import SHOWN_CHANNELS
from retinanet.visualization.html import image_url, render_page
from retinanet.visualization.plots import Chart, Series, svg_of

COMMAND = "retinanet check"  # recorded in the page: only a page of this command may be replaced
MAX_CLASSES = 100  # rows of a table; the rest is summed up in one row
PROPOSED = "Proposed anchors"
BARELY_BETTER = "Anchors that fit slightly better, which is not worth a change"


def render_report(report: CheckReport) -> str:
    """Render the report as HTML; all text from the data is escaped."""
    values = {
        "report": report,
        "facts": _facts(report),
        "class_rows": _class_rows(report.datasets),
        "split_names": list(report.datasets),
        "charts": [svg_of([chart]) for chart in _charts(report)],
        "iou_levels": IOU_LEVELS,
        "anchor_tables": _anchor_tables(report),
        "shorter": eval_shorter(report.cfg.data),
        "views": [(row.path, [(image_url(view.image), view.caption) for view in row.views]) for row in report.views],
        "transforms": [(image_url(view.image), view.caption) for view in report.transforms],
        "colors": {"learnt": LEARNT, "unmatched": UNMATCHED, "crowd": CROWD, "anchor": ANCHOR},
    }
    return render_page("retinanet.doctor", "page.html", values, command=COMMAND)


def _facts(report: CheckReport) -> list[tuple[str, str]]:
    rows = []
    for name, data in report.datasets.items():
        empty = int((np.diff(data.box_start) == 0).sum())
        crowds = int(data.is_crowd.sum())
        rows.append((name, f"{len(data)} images ({empty} without objects), {len(data.labels) - crowds} objects, "
                           f"{crowds} crowd regions"))  # fmt: skip
    if report.channels is not None:
        mean, std = (
            ", ".join(f"{value:.2f}" for value in values) for values in (report.channels.mean, report.channels.std)
        )
        rows.append(("channels", f"mean {mean}; standard deviation {std} (0 to 255, over the pixels of "
                                 f"{report.channels.images} training images)"))  # fmt: skip
    if report.cfg.model.in_channels > 3:
        rows.append(("shown", SHOWN_CHANNELS))
    return rows


def _class_rows(datasets: dict[str, Dataset]) -> list[tuple[str, list[int]]]:
    if not datasets:
        return []
    names = next(iter(datasets.values())).class_names
    counts = [data.object_counts() for data in datasets.values()]
    rows = sorted(zip(names, map(list, zip(*counts, strict=True)), strict=True), key=lambda row: -row[1][0])
    rest = rows[MAX_CLASSES:]
    if rest:
        total = [sum(column) for column in zip(*(row[1] for row in rest), strict=True)]
        rows = [*rows[:MAX_CLASSES], (f"{len(rest)} other classes", total)]
    return rows


def _charts(report: CheckReport) -> list[Chart]:
    """Distributions of the boxes, as shares of the objects of each split."""
    sides, aspects, counts = [], [], []
    for name, data in report.datasets.items():
        objects = ~data.is_crowd
        boxes = resized_boxes(data, plan_evaluation(data, report.cfg))[objects].astype(np.float64)
        width, height = (boxes[:, 2] - boxes[:, 0]).clip(1e-3), (boxes[:, 3] - boxes[:, 1]).clip(1e-3)
        if len(boxes):
            sides.append(_histogram(name, np.log2(np.sqrt(width * height)), np.arange(0, 11.5, 0.5)))
            aspects.append(_histogram(name, np.log2(height / width), np.arange(-4.25, 4.5, 0.5)))
        per_image = np.diff(data.box_start)
        largest = max(10, int(np.quantile(per_image, 0.99))) if len(per_image) else 10
        counts.append(_histogram(name, per_image, np.linspace(-0.5, largest + 0.5, min(largest + 2, 40))))
    return [
        Chart("Size of the objects after the resize", "square root of the area, pixels", "share of the objects",
              sides, ticks={float(power): str(2**power) for power in range(0, 12)}),
        Chart("Aspect ratio of the objects", "height / width", "share of the objects",
              aspects, ticks={-4.0: "1/16", -3.0: "1/8", -2.0: "1/4", -1.0: "1/2", 0.0: "1", 1.0: "2", 2.0: "4",
                              3.0: "8", 4.0: "16"}),
        Chart("Boxes per image", "boxes", "share of the images", counts),
    ]  # fmt: skip


def _histogram(name: str, values: np.ndarray, edges: np.ndarray) -> Series:
    """Shares of the values in bins; values beyond the edges count in the first or last bin."""
    inside = values.clip(edges[0], edges[-1])
    shares = np.histogram(inside, edges)[0] / max(len(values), 1)
    return Series(name, ((edges[:-1] + edges[1:]) / 2).tolist(), shares.tolist())


def _anchor_tables(report: CheckReport) -> list[tuple[str, AnchorReport, list[tuple[str, MatchSummary]]]]:
    """Title and rows of a table for the anchors of the config and, if there are better ones, for those."""
    if report.anchors is None:
        return []
    tables = [("Anchors of the config", report.anchors, _rows(report.anchors))]
    proposal = report.proposal
    if proposal is not None and proposal.is_better:
        if proposal.before is not report.anchors:
            tables.append(("At the recommended image size and levels", proposal.before, _rows(proposal.before)))
        is_recommended = any(item.topic == "anchors" and item.lines for item in report.recommendations)
        title = PROPOSED if is_recommended else BARELY_BETTER
        tables.append((title, proposal.after, _rows(proposal.after)))
    return tables


def _rows(anchors: AnchorReport) -> list[tuple[str, MatchSummary]]:
    by_class = [(name, group) for name, group in anchors.by_class.items() if group.objects]
    sizes = [(f"{name} objects", group) for name, group in anchors.by_resized_size.items() if group.objects]
    return [("all objects", anchors.total), *sizes, *by_class[:MAX_CLASSES]]
