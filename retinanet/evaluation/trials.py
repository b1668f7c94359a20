"""Try repairs: measure how AP changes if the detections of a sample of images are moved, transformed or relabelled.

Shape letters: D detections, S sampled images, K classes.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from retinanet.evaluation.coco import coco_evaluation, score_detections
from retinanet.evaluation.confusion import confusion_matrix
from retinanet.evaluation.detection_table import DetectionTable, ranks, rows_by_image
from retinanet.evaluation.misplaced import BoxRepair, ImageRepair, box_repairs, image_repairs
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections

# A repair proves its cause if AP at least doubles and increases by at least 0.1, and the increase corresponds to at
# least ten objects.
MIN_FACTOR, MIN_RISE, MIN_OBJECTS = 2.0, 0.1, 10
SAME_AP = 0.02  # among proven repairs this close to the best one, the first is the simplest
SHIFT_SHARE = 0.8  # of the relabelled detections agree on a shift
MAX_NAMED = 3  # classes listed as examples


class Repair(NamedTuple):
    """A repair of the detections, and AP before and after it."""

    cause: str
    finding: str  # completes "AP rises if ..."
    remedy: str
    before: float  # AP50 ignoring classes; for labels, the mean AP50 of the classes involved
    after: float
    table: DetectionTable  # the repaired detections of the sample


class PlacementTrials(NamedTuple):
    """Results of all repairs of images and boxes; AP50 ignores classes."""

    before: float
    best: float  # the highest AP50 of any repair, proven or not
    proven: Repair | None


class Sample(NamedTuple):
    """Some images of a dataset, numbered from 0, and their detections."""

    dataset: Dataset
    table: DetectionTable
    chosen: np.ndarray  # (S,) int64, index of each image in the whole dataset

    @property
    def num_objects(self) -> int:
        """Number of objects, without crowd regions."""
        return int((~self.dataset.is_crowd).sum())


def draw_sample(dataset: Dataset, table: DetectionTable, *, max_images: int) -> Sample:
    """Draw images with objects at random, the same ones each time.

    Args:
        table: sorted by image index.
    """
    with_objects = np.unique(np.repeat(np.arange(len(dataset)), np.diff(dataset.box_start))[~dataset.is_crowd])
    chosen = np.sort(np.random.default_rng(0).permutation(with_objects)[:max_images])
    return Sample(dataset.subset(chosen.tolist()), of_images(table, chosen), chosen)


def try_placements(dataset: Dataset, table: DetectionTable, sample: Sample) -> PlacementTrials:
    """Try all repairs of images, box formats and frames on a sample, ignoring classes.

    Args:
        dataset, table: all images and detections; a sampled image may be given the detections of any of them.
    """
    own = sample.table
    before = _score_ignoring_classes(sample.dataset, own)
    if before.ap50 * MIN_FACTOR > 1:  # no increase could prove anything
        return PlacementTrials(before.ap50, before.ap50, None)
    sizes = sample.dataset.sizes[own.image_indices]
    trials: list[tuple[ImageRepair | BoxRepair, DetectionTable]] = [
        *((repair, of_images(table, repair.source[sample.chosen])) for repair in image_repairs(dataset)),
        *(
            (repair, own._replace(boxes_xywh=repair.apply(own.boxes_xywh, sizes)))
            for repair in box_repairs(sample.dataset, own)
        ),
    ]
    results = [(_score_ignoring_classes(sample.dataset, moved), repair, moved) for repair, moved in trials]
    best = max(score.ap50 for score, *_ in results)
    proven = [result for result in results if is_proof(before.ap50, result[0].ap50, sample.num_objects)]
    if not proven:
        return PlacementTrials(before.ap50, best, None)
    highest = max(score.ap for score, *_ in proven)
    score, repair, moved = next(result for result in proven if result[0].ap >= highest - SAME_AP)
    return PlacementTrials(
        before.ap50,
        best,
        Repair(repair.cause, repair.finding, repair.remedy, before.ap50, score.ap50, moved),
    )


def try_relabelling(sample: Sample) -> Repair | None:
    """Permute the classes so that most detections agree with the objects they overlap, and check whether AP increases.

    The permutation is found in every other image and tested in the rest.
    """
    from scipy.optimize import linear_sum_assignment  # imported here because it is slow to import

    names = sample.dataset.class_names
    tuning, test = (_part(sample, np.arange(start, len(sample.chosen), 2)) for start in (0, 1))
    counts = confusion_matrix(coco_evaluation(tuning.dataset, by_image(tuning.table)), tuning.dataset)[:-1, :-1]
    # Half a count, so that classes without detections keep their labels.
    labels, predicted = linear_sum_assignment(counts + 0.5 * np.eye(len(names)), maximize=True)
    moved = labels[(labels != predicted) & (counts[labels, predicted] > 0)]
    is_tested = np.isin(test.dataset.labels, [moved, predicted[moved]]) & ~test.dataset.is_crowd
    if len(moved) < 2 or not is_tested.any():  # not a permutation, but the same label for every object
        return None
    new_label = np.argsort(predicted)  # `labels` is 0..K-1, so this is the label of each predicted one
    concerned = np.unique(test.dataset.labels[is_tested])
    before = _mean_ap50(test.dataset, test.table, concerned)
    after = _mean_ap50(test.dataset, _relabelled(test.table, new_label), concerned)
    if not is_proof(before, after, int(is_tested.sum())):
        return None
    by_step = np.bincount((predicted[moved] - moved) % len(names), weights=counts[moved, predicted[moved]])
    is_shift = len(moved) > 2 and by_step.max() >= SHIFT_SHARE * by_step.sum()
    step = (by_step.argmax() + len(names) // 2) % len(names) - len(names) // 2  # -1 rather than K - 1
    pairs = [f"{names[predicted[label]]} becomes {names[label]}" for label in moved.tolist()]
    more = f" and {len(pairs) - MAX_NAMED} more" if len(pairs) > MAX_NAMED else ""
    return Repair(
        f"class labels are shifted by {step}" if is_shift else "classes are permuted",
        f"detections are relabelled: {', '.join(pairs[:MAX_NAMED])}{more}",
        "Compare the class names of the checkpoint or detection file, in order, with the categories of the annotation "
        "file: ids need neither be consecutive nor sorted.",
        before,
        after,
        _relabelled(sample.table, new_label),
    )


def is_proof(before: float, after: float, num_objects: int) -> bool:
    """Whether AP increases by more than chance or a weak detector could explain."""
    rise = after - before
    return after >= MIN_FACTOR * before and rise >= MIN_RISE and rise * num_objects >= MIN_OBJECTS


def of_images(table: DetectionTable, chosen: np.ndarray) -> DetectionTable:
    """Return the detections of the given images, which become 0, 1, ... as in `Dataset.subset`; image -1 has none.

    Args:
        table: sorted by image index.
    """
    starts = np.searchsorted(table.image_indices, chosen, side="left")
    counts = np.searchsorted(table.image_indices, chosen, side="right") - starts
    images = np.repeat(np.arange(len(chosen)), counts)
    first = np.cumsum(counts) - counts  # new row of the first detection of each image
    rows = np.arange(len(images)) + np.repeat(starts - first, counts)
    return DetectionTable(*(column[rows] for column in table))._replace(image_indices=images)


def by_image(table: DetectionTable) -> dict[int, Detections]:
    """Return the detections of each image that has any, keyed by image index."""
    corners = np.concatenate([table.boxes_xywh[:, :2], table.boxes_xywh[:, :2] + table.boxes_xywh[:, 2:]], axis=1)
    boxes, scores = torch.from_numpy(corners).float(), torch.from_numpy(table.scores).float()
    labels = torch.from_numpy(table.labels)
    return {
        index: Detections(boxes[rows], scores[rows], labels[rows]) for index, rows in rows_by_image(table.image_indices)
    }


class _Score(NamedTuple):
    ap: float
    ap50: float


def _score_ignoring_classes(dataset: Dataset, table: DetectionTable) -> _Score:
    """AP and AP50 with all classes merged into one."""
    one_class = replace(
        dataset, labels=np.zeros_like(dataset.labels), class_names=("object",), category_ids=(1,), federated=None
    )
    metrics = score_detections(one_class, by_image(table._replace(labels=np.zeros_like(table.labels)))).metrics
    return _Score(metrics["AP"], metrics["AP50"])


def _mean_ap50(dataset: Dataset, table: DetectionTable, labels: np.ndarray) -> float:
    """Mean AP50 of some classes, all of which have objects."""
    precision = coco_evaluation(dataset, by_image(table)).eval["precision"]  # (IoU, recall, class, area, detections)
    return float(precision[0, :, ranks(dataset.category_ids)[labels] - 1, 0, -1].mean())


def _relabelled(table: DetectionTable, new_label: np.ndarray) -> DetectionTable:
    return table._replace(labels=new_label[table.labels])


def _part(sample: Sample, positions: np.ndarray) -> Sample:
    return Sample(
        sample.dataset.subset(positions.tolist()), of_images(sample.table, positions), sample.chosen[positions]
    )
