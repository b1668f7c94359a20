"""COCO average precision and recall, computed by hotcoco, bit-identical to pycocotools."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from hotcoco import COCO, COCOeval

from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections

# pycocotools' twelve metrics, in the same order: name, "AP" or "AR", IoU, object area, detections per image.
_DEFINITIONS = (
    ("AP", "AP", "0.50:0.95", "all", 100),
    ("AP50", "AP", "0.50", "all", 100),
    ("AP75", "AP", "0.75", "all", 100),
    ("APs", "AP", "0.50:0.95", "small", 100),
    ("APm", "AP", "0.50:0.95", "medium", 100),
    ("APl", "AP", "0.50:0.95", "large", 100),
    ("AR1", "AR", "0.50:0.95", "all", 1),
    ("AR10", "AR", "0.50:0.95", "all", 10),
    ("AR100", "AR", "0.50:0.95", "all", 100),
    ("ARs", "AR", "0.50:0.95", "small", 100),
    ("ARm", "AR", "0.50:0.95", "medium", 100),
    ("ARl", "AR", "0.50:0.95", "large", 100),
)
METRICS = tuple(name for name, *_ in _DEFINITIONS)
_TITLES = {"AP": "Average Precision", "AR": "Average Recall"}


class CocoScores(NamedTuple):
    """COCO metrics in 0..1; NaN if there are no matching objects."""

    metrics: dict[str, float]  # keyed by the names in METRICS
    per_class: dict[str, float]  # AP by class name, ordered by category id
    summary: str  # twelve lines, worded like pycocotools' summary


def score_detections(dataset: Dataset, detections: Mapping[int, Detections]) -> CocoScores:
    """Compute the COCO metrics of detections on a dataset. Without any detections, the metrics are 0.

    Detections with equal scores are ranked by image id, then by their order within the image, so the result does not
    depend on the order of `detections`.

    A federated dataset is scored by the rules of LVIS: a detection of a class that was not looked for in an image does
    not count, nor does a false one if not all objects of its class are annotated. The AP metrics then allow 300
    detections per image, and the AR metrics are NaN, because their numbers of detections differ.

    Args:
        dataset: its boxes and areas are the ground truth.
        detections: keyed by image index, boxes in pixels of the original image. A missing entry means no detections.
    """
    # hotcoco needs non-negative integers; ranks preserve the order of arbitrary ids, and that order breaks ties.
    image_ranks = _ranks(dataset.image_ids)  # (I,)
    category_ranks = _ranks(dataset.category_ids)  # (K,)
    ground_truth = COCO.from_arrays(
        _image_entries(dataset, image_ranks, category_ranks),
        [{"id": rank, "name": name} for rank, name in zip(category_ranks.tolist(), dataset.class_names, strict=True)],
        np.repeat(image_ranks, np.diff(dataset.box_start)),
        category_ranks[dataset.labels],
        dataset.boxes_xywh,
        area=dataset.areas,
        iscrowd=dataset.is_crowd,
    )
    found = ground_truth.load_res(_detection_table(detections, image_ranks, category_ranks))
    evaluation = COCOeval(ground_truth, found, "bbox", lvis_style=dataset.federated is not None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # computes `stats` without printing them
    values = evaluation.stats.tolist()
    if dataset.federated is not None:
        of_lvis = dict(zip(evaluation.metric_keys(), values, strict=True))
        values = [of_lvis.get(name, -1.0) for name in METRICS]
    summary = [_summary_line(*definition[1:], value) for definition, value in zip(_DEFINITIONS, values, strict=True)]
    precision = evaluation.eval["precision"]  # (IoU, recall, class, area, detections)
    ap_of_rank = [_mean(precision[:, :, rank, 0, -1]) for rank in range(len(category_ranks))]
    name_of_rank = [dataset.class_names[label] for label in np.argsort(category_ranks).tolist()]
    return CocoScores(
        metrics={name: _or_nan(value) for name, value in zip(METRICS, values, strict=True)},
        per_class=dict(zip(name_of_rank, ap_of_rank, strict=True)),
        summary="\n".join(summary if dataset.federated is None else evaluation.summary_lines()),
    )


def _image_entries(dataset: Dataset, image_ranks: np.ndarray, category_ranks: np.ndarray) -> list[dict[str, Any]]:
    """Images for hotcoco, in the order of their ranks, with the verified categories of a federated dataset."""
    entries: list[dict[str, Any]] = [{"id": rank} for rank in range(1, len(dataset) + 1)]
    if dataset.federated is not None:
        for entry in entries:
            entry |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for field, pairs in (
            ("neg_category_ids", dataset.federated.absent),
            ("not_exhaustive_category_ids", dataset.federated.incomplete),
        ):
            for index, label in pairs.tolist():
                entries[image_ranks[index] - 1][field].append(int(category_ranks[label]))
    return entries


def _ranks(ids: Sequence[int | str]) -> np.ndarray:
    """Rank of each id, starting from 1; texts come after numbers."""
    order = sorted(range(len(ids)), key=lambda index: (isinstance(ids[index], str), ids[index]))
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[order] = np.arange(1, len(ids) + 1)
    return ranks


def _detection_table(
    detections: Mapping[int, Detections], image_ranks: np.ndarray, category_ranks: np.ndarray
) -> np.ndarray:
    """Detections as rows (D, 7) float64, sorted by image: image, left, top, width, height, score, category."""
    indices = sorted(detections, key=lambda index: image_ranks[index])
    counts = [len(detections[index].scores) for index in indices]
    if not sum(counts):
        return np.zeros((0, 7))
    corners = torch.cat([detections[index].boxes.cpu() for index in indices]).numpy()
    corners = corners.astype(np.float64)  # before the subtraction, to keep sizes exact
    scores = torch.cat([detections[index].scores.cpu() for index in indices]).numpy()
    labels = torch.cat([detections[index].labels.cpu() for index in indices]).numpy()
    return np.column_stack(
        [
            np.repeat(image_ranks[indices], counts),
            corners[:, :2],
            corners[:, 2:] - corners[:, :2],
            scores,
            category_ranks[labels],
        ]
    )


def _summary_line(kind: str, iou: str, area: str, max_detections: int, value: float) -> str:
    return (
        f" {_TITLES[kind]:<18} ({kind}) @[ IoU={iou:<9} | area={area:>6} | maxDets={max_detections:>3} ] = {value:0.3f}"
    )


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _or_nan(value: float) -> float:
    return float("nan") if value == -1 else value
