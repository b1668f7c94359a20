"""Verify an export: its detections, in its own runtime, must match those of the `Predictor`.

Detections are matched one to one. Small differences of scores may change which of two boxes NMS keeps, or which box
passes a threshold: a box without a match is accepted only if such a near tie explains it. Even then, a box of the
export must be one of those that the predictor passes to NMS.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from retinanet.errors import InputError
from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.pairwise_iou import pairwise_iou
from retinanet.export.images import accepts, read_array
from retinanet.export.metadata import Metadata
from retinanet.export.numpy_runtime import detections, padded_shape, prepare
from retinanet.export.write import Runner
from retinanet.formats.dataset import Dataset
from retinanet.formats.images.windows import DecodedImage
from retinanet.inference.image_detector import ImageDetector, build_image_detector
from retinanet.inference.predictor import Predictor
from retinanet.structures import Detections

SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE = 0.1  # pixels of the resized image
IOU_TOLERANCE = 0.01  # around the IoU of NMS
MIN_MATCHED = 0.9  # share of detections that must have a match, since near ties explain only exceptions
AP_TOLERANCE = {"float32": 0.001, "int8": 0.02}
MAX_BATCH = 4
MAX_CANDIDATES = 1_000_000  # practically no limit
MAX_PROBLEMS = 5  # listed in a message


class ExportRejected(Exception):
    """Raised for an export whose detections differ from those of the predictor."""


class Verification(NamedTuple):
    """Differences between the detections of an export and those of the predictor."""

    counts: list[int]  # detections of the predictor in each image
    num_shapes: int  # padded shapes of the images
    max_score_difference: float
    max_box_difference: float  # pixels of the resized image

    def __str__(self) -> str:
        return (
            f"{len(self.counts)} images of {self.num_shapes} padded shapes, with {min(self.counts)} to "
            f"{max(self.counts)} objects each: scores differ by at most {self.max_score_difference:.1e}, boxes by "
            f"{self.max_box_difference:.1e} pixels"
        )


def verify_detections(
    run: Runner, metadata: Metadata, predictor: Predictor, images: Sequence[np.ndarray]
) -> Verification:
    """Compare the detections of an export with those of the predictor, in batches of different sizes.

    Args:
        images: uint8 (H, W, C); a blank image is added.

    Raises:
        ExportRejected: detections differ, or the predictor detects nothing.
    """
    images = [*images, np.zeros_like(images[0])]
    found = dict(detect(run, metadata, images))
    all_candidates = candidate_detector(predictor)
    counts, problems = [], []
    num_matched, score_differences, box_differences = 0, [0.0], [0.0]
    for index, image in enumerate(images):
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        expected = predictor(pixels)
        counts.append(len(expected))
        scale = metadata.shorter / min(image.shape[:2])
        scale = min(scale, metadata.longer / max(image.shape[:2]))
        compared = _Comparison(expected, found[index], metadata, scale)
        rows, columns = compared.matches
        if len(columns) < len(found[index]):
            (candidates,) = all_candidates([DecodedImage(pixels)], batch_size=1)
            compared.candidates = _Side(candidates)
        num_matched += len(rows)
        score_differences += compared.score_differences[rows, columns].tolist()
        box_differences += compared.box_differences[rows, columns].tolist()
        problems += [f"image {index}: {problem}" for problem in compared.problems()]
    if not sum(counts):
        raise ExportRejected(
            "the detector finds nothing in the images, so nothing can be compared; pass images with objects: "
            "--images FOLDER"
        )
    if not problems and num_matched < MIN_MATCHED * sum(counts):
        problems.append(f"only {num_matched} of {sum(counts)} detections have a match; the others are near ties")
    if problems:
        more = f"; {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise ExportRejected("; ".join(problems[:MAX_PROBLEMS]) + more)
    shapes = {padded_shape(*image.shape[:2], metadata.model_dump()) for image in images}
    return Verification(counts, len(shapes), max(score_differences), max(box_differences))


def candidate_detector(predictor: Predictor) -> ImageDetector:
    """Build a detector with the network of a predictor that returns all candidates, as if there were no NMS.

    It also returns those that narrowly miss the limits of the predictor.
    """
    postprocess = predictor.cfg.postprocess
    changes = {
        "min_score": max(0.0, postprocess.min_score - SCORE_TOLERANCE),
        "top_k": 2 * postprocess.top_k,
        "nms_iou": 1.0,
        "max_detections": MAX_CANDIDATES,
    }
    cfg = predictor.cfg.model_copy(update={"postprocess": postprocess.model_copy(update=changes)})
    return build_image_detector(cfg, predictor.model, device=predictor.device)


def verify_ap(run: Runner, metadata: Metadata, predictor: Predictor, data: Dataset) -> tuple[float, float]:
    """Compare the AP of an export on a dataset with that of the predictor, and return both: expected, found.

    Images that the export does not accept, because it has a fixed padded shape, are skipped.

    Raises:
        ExportRejected: they differ by more than the tolerance for the precision of the export.
        InputError: the export accepts none of the images.
    """
    accepted = [index for index, size in enumerate(data.sizes.tolist()) if accepts(metadata, *size)]
    if not accepted:
        raise InputError(f"--verify: none of the {len(data)} images is padded to {metadata.padded_shape}")
    data = data.subset(accepted)
    expected_ap = score_detections(data, dict(enumerate(predictor.predict(data.paths)))).metrics["AP"]
    found: dict[int, Detections] = {}
    for index, path in enumerate(data.paths):  # one by one, since a dataset may not fit in memory
        ((_, found[index]),) = detect(run, metadata, [read_array(predictor, path)])
    ap = score_detections(data, found).metrics["AP"]
    tolerance = AP_TOLERANCE[metadata.precision]
    if not abs(ap - expected_ap) <= tolerance:  # NaN fails
        raise ExportRejected(f"AP is {ap:.4f}, but {expected_ap:.4f} with the predictor; the tolerance is {tolerance}")
    return expected_ap, ap


def detect(run: Runner, metadata: Metadata, images: Sequence[np.ndarray]) -> Iterator[tuple[int, Detections]]:
    """Yield the index and the detections of each image, computed by an export and the code for its clients.

    Images of one padded shape are run one by one, then in batches: first 1 image, then up to `MAX_BATCH`.
    """
    values = metadata.model_dump()
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(padded_shape(*image.shape[:2], values), []).append(index)
    for indices in by_shape.values():
        starts = range(1, len(indices), MAX_BATCH)
        for batch in (indices[:1], *(indices[start : start + MAX_BATCH] for start in starts)):
            chosen = [images[index] for index in batch]
            pixels, sizes = prepare(chosen, values)
            original_sizes = np.array([image.shape[:2] for image in chosen])
            results = detections(run(pixels, sizes), sizes, original_sizes, values)
            for index, arrays in zip(batch, results, strict=True):
                yield index, Detections(*map(torch.from_numpy, arrays))


class _Comparison:
    """Detections in one image by the predictor and by an export, D and E of them, and the matches between them."""

    def __init__(self, expected: Detections, found: Detections, metadata: Metadata, scale: float):
        self.expected, self.found = _Side(expected), _Side(found)
        self.candidates: _Side | None = None  # of the predictor; needed if a box of the export has no match
        self.metadata = metadata
        self.scale = scale
        boxes, others = self.expected.boxes[:, None] * scale, self.found.boxes[None] * scale
        self.score_differences = np.abs(self.expected.scores[:, None] - self.found.scores)  # (D, E)
        self.box_differences = np.abs(boxes - others).max(axis=-1)  # (D, E)
        may_match = self.expected.labels[:, None] == self.found.labels
        may_match &= (self.score_differences <= SCORE_TOLERANCE) & (self.box_differences <= BOX_TOLERANCE)
        rows, columns = linear_sum_assignment(may_match, maximize=True)
        is_match = may_match[rows, columns]
        self.matches = rows[is_match], columns[is_match]

    def problems(self) -> list[str]:
        """Describe each detection that has no match and that no near tie explains."""
        sides = (self.expected, self.found)
        unmatched = [
            set(range(len(side.scores))) - set(rows.tolist()) for side, rows in zip(sides, self.matches, strict=True)
        ]
        explainable = [unmatched[0], {row for row in unmatched[1] if self._is_candidate(row)}]
        explained = [
            {row for row in rows if self._is_near_tie(side, other, row)}
            for side, other, rows in zip(sides, sides[::-1], explainable, strict=True)
        ]
        # A box that only one side keeps may suppress others there, and so on.
        has_more = True
        while has_more:
            count = sum(map(len, explained))
            for number, (side, other) in enumerate(zip(sides, sides[::-1], strict=True)):
                rivals = sorted(explained[1 - number])
                explained[number] |= {
                    row for row in explainable[number] if self._is_suppressed(side, row, other, rivals)
                }
            has_more = sum(map(len, explained)) > count
        problems = []
        for number, (side, what) in enumerate(zip(sides, ("is missing", "is not expected"), strict=True)):
            for row in sorted(unmatched[number] - explained[number]):
                box = ", ".join(f"{value:.1f}" for value in side.boxes[row])
                name = self.metadata.class_names[side.labels[row]]
                problems.append(f"{name} {side.scores[row]:.4f} [{box}] {what}")
        return problems

    def _is_candidate(self, row: int) -> bool:
        """Whether the predictor has a candidate with the class, score and box of one that the export has found."""
        assert self.candidates is not None
        found, candidates = self.found, self.candidates
        is_close = candidates.labels == found.labels[row]
        is_close &= np.abs(candidates.scores - found.scores[row]) <= SCORE_TOLERANCE
        distances = np.abs(candidates.boxes - found.boxes[row]).max(axis=-1) * self.scale
        return bool((is_close & (distances <= BOX_TOLERANCE)).any())

    def _is_suppressed(self, side: "_Side", row: int, other: "_Side", rivals: list[int]) -> bool:
        """Whether one of the boxes `rivals` of the other side suppresses a box."""
        compared = self.metadata.nms_across_classes | (other.labels[rivals] == side.labels[row])
        compared &= other.scores[rivals] >= side.scores[row] - SCORE_TOLERANCE
        ious = pairwise_iou(side.boxes[row][None], other.boxes[rivals][compared])[0]
        return bool((ious > self.metadata.nms_iou - IOU_TOLERANCE).any())

    def _is_near_tie(self, side: "_Side", other: "_Side", row: int) -> bool:
        metadata = self.metadata
        score, label = side.scores[row], side.labels[row]
        limits = [metadata.min_score, *([metadata.thresholds[label]] if metadata.thresholds else [])]
        limits += [those.scores.min() for those in (side, other) if len(those.scores) == metadata.max_detections]
        if score <= max(limits) + SCORE_TOLERANCE:
            return True
        rivals = metadata.nms_across_classes | (other.labels == label)
        rivals &= other.scores >= score - SCORE_TOLERANCE
        ious = pairwise_iou(side.boxes[row][None], other.boxes[rivals])[0]
        is_tie = np.abs(other.scores[rivals] - score) <= SCORE_TOLERANCE
        is_close = np.abs(ious - metadata.nms_iou) <= IOU_TOLERANCE
        return bool((is_close | (is_tie & (ious > metadata.nms_iou) & (ious < 1 - IOU_TOLERANCE))).any())


class _Side:
    """Detections as NumPy arrays."""

    def __init__(self, detections: Detections):
        self.boxes, self.scores = detections.boxes.numpy(), detections.scores.numpy()
        self.labels = detections.labels.numpy()
