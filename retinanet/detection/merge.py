"""Merge the detections of several views of one image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from retinanet.config import Config, MergeMethod
from retinanet.detection.better_neighbours import BetterNeighbours
from retinanet.detection.cut_boxes import complete_cut_boxes
from retinanet.detection.weighted_boxes import weighted_boxes
from retinanet.formats.images.windows import Window
from retinanet.structures import Detections


class ViewDetections(NamedTuple):
    """The detections in one view of an image, after non-maximum suppression."""

    window: Window  # the part of the image that the view shows
    detections: Detections  # in pixels of the image


class Merge:
    """Combine the detections of several views, so that each object is detected once.

    Boxes that are cut by the edge of a tile are first completed; see `complete_cut_boxes`. The time grows with the
    number of pairs of boxes that overlap, not with the number of all pairs.

    Args:
        method: nms keeps the box with the highest score and removes those of other views that overlap it;
            weighted_boxes averages them.
        max_iou: boxes of different views with a larger IoU are of the same object.
        across_classes: whether boxes of different classes may be of the same object; its class is that of the best box.
        min_score: only detections with a score above this value are kept, as averaging lowers scores.
    """

    def __init__(
        self,
        *,
        method: MergeMethod = "nms",
        max_iou: float = 0.5,
        across_classes: bool = False,
        min_score: float = 0.05,
    ):
        self.method = method
        self.max_iou = max_iou
        self.across_classes = across_classes
        self.min_score = min_score

    def __call__(self, found: Sequence[ViewDetections], image_size: tuple[int, int]) -> Detections:
        """Merge the detections of the views of one image, at least one, whose (height, width) is `image_size`."""
        boxes = torch.cat([view.detections.boxes for view in found]).double().numpy()
        scores = torch.cat([view.detections.scores for view in found]).double().numpy()
        labels = torch.cat([view.detections.labels for view in found]).numpy()
        views = np.repeat(np.arange(len(found)), [len(view.detections) for view in found])
        windows = np.array([view.window for view in found], dtype=np.float64)
        groups = np.zeros_like(labels) if self.across_classes else labels
        boxes, was_cut = complete_cut_boxes(boxes, scores, groups, windows[views], image_size, min_iou=self.max_iou)
        if self.method == "weighted_boxes":
            boxes, scores, best = weighted_boxes(boxes, scores, groups, windows, min_iou=self.max_iou)
        else:
            # Within a view, postprocessing has decided which overlapping boxes are different objects, except for
            # completed boxes, which had other sides then.
            sources = np.where(was_cut, len(found) + np.arange(len(boxes)), views)
            best = np.argsort(-scores, kind="stable")
            best = best[BetterNeighbours(boxes, groups, best, min_iou=self.max_iou, sources=sources).kept_by_nms()]
            boxes, scores = boxes[best], scores[best]
        merged = Detections(
            torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(), torch.from_numpy(labels[best])
        )
        return merged[merged.scores > self.min_score]


def build_merge(cfg: Config) -> Merge:
    """Build the merging from `inference.merge` and `postprocess`."""
    return Merge(
        method=cfg.inference.merge,
        max_iou=cfg.postprocess.nms_iou,
        across_classes=cfg.postprocess.nms_across_classes,
        min_score=cfg.postprocess.min_score,
    )
