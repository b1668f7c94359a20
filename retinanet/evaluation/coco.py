"""COCO average precision and recall, computed by hotcoco, bit-identical to pycocotools."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from hotcoco import COCO, COCOeval, LVISeval, LVISResults

from retinanet.evaluation.detection_table import detection_table, ranks
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0, 1, 101)

# pycocotools' twelve metrics, in the same order: name, "AP" or "AR", IoU, object area, and detections per image, where
# None is the largest number that counts.
_DEFINITIONS = (
    ("AP", "AP", "0.50:0.95", "all", None),
    ("AP50", "AP", "0.50", "all", None),
    ("AP75", "AP", "0.75", "all", None),
    ("APs", "AP", "0.50:0.95", "small", None),
    ("APm", "AP", "0.50:0.95", "medium", None),
    ("APl", "AP", "0.50:0.95", "large", None),
    ("AR1", "AR", "0.50:0.95", "all", 1),
    ("AR10", "AR", "0.50:0.95", "all", 10),
    ("AR100", "AR", "0.50:0.95", "all", 100),
    ("ARs", "AR", "0.50:0.95", "small", None),
    ("ARm", "AR", "0.50:0.95", "medium", None),
    ("ARl", "AR", "0.50:0.95", "large", None),
)
METRICS = tuple(name for name, *_ in _DEFINITIONS)
_TITLES = {"AP": "Average Precision", "AR": "Average Recall"}
_IOU_INDEX = {"0.50:0.95": slice(None), "0.50": slice(0, 1), "0.75": slice(5, 6)}
_AREA_INDEX = {"all": 0, "small": 1, "medium": 2, "large": 3}


class CocoScores(NamedTuple):
    """COCO metrics in 0..1; NaN if there are no matching objects."""

    metrics: dict[str, float]  # keyed by the names in METRICS
    per_class: dict[str, float]  # AP by class name, ordered by category id
    summary: str  # twelve lines in the format of pycocotools' summary


def score_detections(
    dataset: Dataset, detections: Mapping[int, Detections], *, max_detections: int | None = None
) -> CocoScores:
    """Compute the COCO metrics of detections on a dataset. Without any detections, the metrics are 0.

    Detections with equal scores are ranked by image id, then by their order within the image, so the result does not
    depend on the order of `detections`.

    A federated dataset is scored by the rules of LVIS: detections of a class that was not checked in an image do not
    count, nor do false positives of a class whose objects are not all annotated there. `max_detections` then applies to
    all classes of an image together, and the AR metrics are NaN, because LVIS defines AR for other numbers of
    detections.

    Args:
        dataset: the ground truth.
        detections: keyed by image index, boxes in pixels of the original image. A missing entry means no detections.
        max_detections: as in `coco_evaluation`. AR1, AR10 and AR100 never allow more than 1, 10 and 100 detections.
    """
    if max_detections is None:
        max_detections = default_max_detections(dataset)
    evaluation = coco_evaluation(dataset, detections, max_detections=max_detections)
    values, summary = {}, []
    for name, kind, iou, area, allowed in _DEFINITIONS:
        allowed = min(allowed or max_detections, max_detections)
        is_defined = kind == "AP" or dataset.federated is None
        values[name] = _value(evaluation, kind, iou, area, allowed) if is_defined else float("nan")
        summary.append(_summary_line(kind, iou, area, allowed, values[name]))
    precision = evaluation.eval["precision"]
    label_of_rank = np.argsort(ranks(dataset.category_ids)).tolist()
    return CocoScores(
        metrics=values,
        per_class={
            dataset.class_names[label]: mean_of_defined(precision[:, :, rank, 0, -1])
            for rank, label in enumerate(label_of_rank)
        },
        summary="\n".join(summary if dataset.federated is None else evaluation.summary_lines()),
    )


def coco_evaluation(
    dataset: Dataset,
    detections: Mapping[int, Detections],
    *,
    max_detections: int | None = None,
    iou_thresholds: Sequence[float] | None = None,
) -> COCOeval:
    """Evaluate detections with hotcoco, and return the accumulated evaluation, from which it computes its metrics.

    hotcoco numbers images and categories by rank, starting from 1: image `i` is number `ranks(dataset.image_ids)[i]`,
    label `k` is number `ranks(dataset.category_ids)[k]`. The object in row r of the dataset's boxes has the number
    r + 1, and so has the detection in row r of `detection_table(detections, ranks(dataset.image_ids))`.

    Args:
        max_detections: highest-scoring detections that count per image and class, or per image if the dataset is
            federated. None: 100, or 300 if the dataset is federated.
        iou_thresholds: None: those of COCO, 0.50 to 0.95.
    """
    if max_detections is None:
        max_detections = default_max_detections(dataset)
    image_ranks = ranks(dataset.image_ids)  # (I,)
    category_ranks = ranks(dataset.category_ids)  # (K,)
    ground_truth = COCO.from_arrays(
        _image_entries(dataset, image_ranks, category_ranks),
        [{"id": rank, "name": name} for rank, name in zip(category_ranks.tolist(), dataset.class_names, strict=True)],
        np.repeat(image_ranks, np.diff(dataset.box_start)),
        category_ranks[dataset.labels],
        dataset.boxes_xywh,
        area=dataset.areas,
        iscrowd=dataset.is_crowd,
    )
    table = detection_table(detections, image_ranks)
    rows = np.column_stack(
        [image_ranks[table.image_indices], table.boxes_xywh, table.scores, category_ranks[table.labels]]
    )
    if dataset.federated is None:
        evaluation = COCOeval(ground_truth, ground_truth.load_res(rows), "bbox")
        evaluation.params.max_dets = _allowed_detections(max_detections)
    else:
        evaluation = LVISeval(ground_truth, LVISResults(ground_truth, rows, max_dets=max_detections), "bbox")
        evaluation.params.max_dets = [max_detections]
    if iou_thresholds is not None:
        evaluation.params.iou_thrs = list(iou_thresholds)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def default_max_detections(dataset: Dataset) -> int:
    """Number of detections that count per image and class in COCO, or per image in LVIS."""
    return 100 if dataset.federated is None else 300


def _allowed_detections(max_detections: int) -> list[int]:
    """Numbers of detections per image and class for which COCO metrics are computed, ascending."""
    return sorted({1, 10, 100, max_detections} & set(range(1, max_detections + 1)))


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


def _value(evaluation: COCOeval, kind: str, iou: str, area: str, allowed: int) -> float:
    """Mean of an evaluation over IoU thresholds and classes (and recall, for AP), at a number of detections."""
    # (IoU, recall, class, area, detections) or (IoU, class, area, detections)
    values = evaluation.eval["precision" if kind == "AP" else "recall"]
    return mean_of_defined(values[_IOU_INDEX[iou], ..., _AREA_INDEX[area], evaluation.params.max_dets.index(allowed)])


def mean_of_defined(values: np.ndarray) -> float:
    """Mean of the values that are defined, that is, not -1; NaN if none is."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _summary_line(kind: str, iou: str, area: str, allowed: int, value: float) -> str:
    value = -1 if np.isnan(value) else value
    return f" {_TITLES[kind]:<18} ({kind}) @[ IoU={iou:<9} | area={area:>6} | maxDets={allowed:>3} ] = {value:0.3f}"
