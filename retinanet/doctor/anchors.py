"""Measure how well a config's anchors fit a dataset: best IoU, objects without a positive anchor, AP ceiling.

Everything is computed from image sizes and boxes; no image is read. Shape letters: I images, M boxes.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retinanet.config import Config
from retinanet.data.build import build_padded_shapes, eval_shorter
from retinanet.data.collate import pad_targets
from retinanet.data.padded_shapes import resized
from retinanet.data.sampler import PlannedImage, eval_batches
from retinanet.detection.anchor_fit import IOU_LEVELS, BoxPlacement, cell_sides
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.boxes import centre_form
from retinanet.detection.build import build_assignment
from retinanet.doctor.ceiling import Lost, perfect_detections
from retinanet.evaluation.coco import CocoScores, score_detections
from retinanet.formats.dataset import Dataset, start_of_each

# About a minute of exact assignment on one core at 800 x 1333 pixels. If objects were independent, a share would have a
# standard error of at most half a point (0.5 / sqrt(10,000)).
MAX_OBJECTS = 10_000
COCO_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}


class MatchSummary(NamedTuple):
    """How well anchors cover a group of objects; fractions are in 0..1, and NaN without objects."""

    objects: int
    mean_iou: float  # mean of the best IoU
    reaching: dict[float, float]  # fraction of objects whose best IoU is at least the key, for each of IOU_LEVELS
    unmatched: int  # objects without a positive anchor, which are not learned
    positives: float  # mean number of positive anchors
    below_a_pixel: int  # objects with a side shorter than a pixel after the resize


@dataclass(frozen=True, eq=False, kw_only=True)
class AnchorReport:
    """Coverage of a dataset's objects by anchors, after resizing as in evaluation.

    Arrays have one row per box of `dataset`; rows of crowd regions are meaningless.
    """

    dataset: Dataset  # the examined images
    num_images: int  # in the whole dataset; `dataset` may be a random sample of it
    placement: BoxPlacement  # sides after the resize, and distances to anchor centres
    best_iou: np.ndarray  # (M,) float32, highest IoU with any anchor
    num_positive: np.ndarray  # (M,) int64, number of positive anchors
    ceiling: CocoScores  # COCO metrics of perfect detections; see `perfect_detections`
    lost: Lost

    @cached_property
    def total(self) -> MatchSummary:
        """Summary of all objects."""
        return self._summary(np.ones(len(self.best_iou), dtype=bool))

    @cached_property
    def by_class(self) -> dict[str, MatchSummary]:
        """Summary of each class."""
        labels = self.dataset.labels
        return {name: self._summary(labels == label) for label, name in enumerate(self.dataset.class_names)}

    @cached_property
    def by_size(self) -> dict[str, MatchSummary]:
        """Summary of small, medium and large objects, by their area in the original image, as in the COCO metrics."""
        return self._by_area(self.dataset.areas)

    @cached_property
    def by_resized_size(self) -> dict[str, MatchSummary]:
        """Summary of small, medium and large objects, by the area of their boxes after the resize."""
        return self._by_area(self.placement.sides.prod(dim=1).numpy())

    def _by_area(self, areas: np.ndarray) -> dict[str, MatchSummary]:
        return {name: self._summary((areas >= low) & (areas < high)) for name, (low, high) in COCO_SIZES.items()}

    def _summary(self, rows: np.ndarray) -> MatchSummary:
        rows = rows & ~self.dataset.is_crowd
        count = int(rows.sum())
        best, positive = self.best_iou[rows].astype(np.float64), self.num_positive[rows]
        return MatchSummary(
            objects=count,
            mean_iou=float(best.mean()) if count else float("nan"),
            reaching={level: float((best >= level).mean()) if count else float("nan") for level in IOU_LEVELS},
            unmatched=int((positive == 0).sum()),
            positives=float(positive.mean()) if count else float("nan"),
            below_a_pixel=int((self.placement.sides.numpy()[rows] < 1).any(axis=1).sum()),
        )


def match_quality(dataset: Dataset, cfg: Config, *, max_objects: int | None = MAX_OBJECTS) -> AnchorReport:
    """Compare a dataset's objects with a config's anchors, with images resized as in evaluation.

    Positive anchors are determined by the config's own assignment rule, applied to whole images. Other sizes in
    `data.resize.shorter` and random transforms, which change the boxes during training, are not considered.

    Args:
        dataset: only sizes, boxes, labels and areas are used; no image is read.
        max_objects: examine a random sample of the images with about this many objects, drawn with `train.seed`. None:
            examine all images.
    """
    sample = sample_images(dataset, max_objects, seed=cfg.train.seed)
    generator = AnchorGenerator(**cfg.model.anchors.model_dump())
    planned = plan_evaluation(sample, cfg)
    boxes = torch.from_numpy(resized_boxes(sample, planned))
    num_positive = _count_positive(sample, cfg, boxes, planned, generator)
    placement = _place(sample, boxes, planned, generator)
    detections, lost = perfect_detections(sample, num_positive > 0, cfg.postprocess)
    return AnchorReport(
        dataset=sample,
        num_images=len(dataset),
        placement=placement,
        best_iou=placement.best_iou(cell_sides(cfg.model.anchors)).numpy(),
        num_positive=num_positive,
        ceiling=score_detections(sample, detections),
        lost=lost,
    )


def summary_table(report: AnchorReport) -> str:
    """Format a report as a Markdown table, one row per group of objects, followed by the AP ceiling and its losses."""
    groups = [
        ("all", report.total),
        *((name.replace("|", "\\|"), group) for name, group in report.by_class.items()),
        *((f"{name}, original pixels", group) for name, group in report.by_size.items()),
        *((f"{name}, after the resize", group) for name, group in report.by_resized_size.items()),
    ]
    levels = [f"IoU {level}" for level in IOU_LEVELS]
    columns = ["objects", *levels, "mean IoU", "no anchor", "anchors each", "below a pixel"]
    rows = [[group_name, *_cells(group)] for group_name, group in groups]
    lines = [["", *columns], ["---"] * (1 + len(columns)), *rows]
    ceiling = ", ".join(f"{name} {report.ceiling.metrics[name]:.3f}" for name in ("AP", "APs", "APm", "APl"))
    lost = report.lost
    return "\n".join(
        [
            *(f"| {' | '.join(line)} |" for line in lines),
            "",
            f"{len(report.dataset)} of {report.num_images} images. Ceiling: {ceiling}; missed: {lost.unmatched} "
            f"without an anchor, {lost.suppressed} suppressed by NMS, {lost.beyond_limit} above the limit per image.",
        ]
    )


def _cells(group: MatchSummary) -> list[str]:
    shares = [f"{100 * share:.1f} %" for share in group.reaching.values()]
    numbers = [f"{group.mean_iou:.3f}", str(group.unmatched), f"{group.positives:.1f}", str(group.below_a_pixel)]
    return [str(group.objects), *shares, *numbers]


def sample_images(dataset: Dataset, max_objects: int | None, *, seed: int) -> Dataset:
    """Draw random images until they contain `max_objects` objects; return a dataset with fewer objects unchanged."""
    counts = np.diff(start_of_each(~dataset.is_crowd)[dataset.box_start])  # (I,)
    if max_objects is None or counts.sum() <= max_objects:
        return dataset
    order = np.random.default_rng(seed).permutation(len(dataset))
    num_chosen = 1 + int(np.searchsorted(np.cumsum(counts[order]), max_objects))
    return dataset.subset(np.sort(order[:num_chosen]).tolist())


def plan_evaluation(dataset: Dataset, cfg: Config) -> list[PlannedImage]:
    """Return the resizing limits and padded shape of every image in evaluation, in dataset order."""
    batches = eval_batches(
        dataset.sizes.tolist(),
        batch_size=1,
        shorter=eval_shorter(cfg.data),
        padded_shapes=build_padded_shapes(cfg.data),
    )
    return sorted(image for batch in batches for image in batch)  # by index, the first field


def resized_boxes(dataset: Dataset, planned: list[PlannedImage]) -> np.ndarray:
    """Resize all boxes along with their planned images, with the loader's arithmetic: (M, 4) float32."""
    new_sizes = [
        resized(height, width, image.shorter, image.longer)
        for (height, width), image in zip(dataset.sizes.tolist(), planned, strict=True)
    ]
    scale = (np.array(new_sizes).reshape(-1, 2) / dataset.sizes).astype(np.float32)[:, [1, 0, 1, 0]]
    return dataset.boxes * np.repeat(scale, np.diff(dataset.box_start), axis=0)


def _count_positive(
    dataset: Dataset, cfg: Config, boxes: Tensor, planned: list[PlannedImage], generator: AnchorGenerator
) -> np.ndarray:
    """Count each box's positive anchors (M,), image by image, because assignment depends on the image's other boxes."""
    assign = build_assignment(cfg.assignment)
    labels, is_crowd = torch.from_numpy(dataset.labels), torch.from_numpy(dataset.is_crowd)
    counts = np.zeros(len(boxes), dtype=np.int64)
    for image, start, stop in zip(planned, dataset.box_start, dataset.box_start[1:], strict=False):
        rows = slice(start, stop)
        if is_crowd[rows].all():
            continue
        targets = pad_targets([(boxes[rows], labels[rows], is_crowd[rows])])
        assignment = assign(generator(*image.padded_shape), targets)
        matched = assignment.gt_index[0][assignment.positive[0]]
        counts[rows] = torch.bincount(matched, minlength=stop - start).numpy()
    return counts


def _place(dataset: Dataset, boxes: Tensor, planned: list[PlannedImage], generator: AnchorGenerator) -> BoxPlacement:
    """Place all boxes in the anchor grids of their images."""
    shapes = np.repeat(np.array([image.padded_shape for image in planned]), np.diff(dataset.box_start), axis=0)
    distances = boxes.new_empty(len(boxes), len(generator.strides), 2)
    for shape in np.unique(shapes, axis=0).tolist():
        rows = torch.from_numpy((shapes == shape).all(axis=1))
        distances[rows] = BoxPlacement.of(boxes[rows], generator(*shape)).distances
    return BoxPlacement(centre_form(boxes)[1], distances)
