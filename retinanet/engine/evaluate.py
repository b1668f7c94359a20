"""A model on a validation set: detections, COCO AP, and the loss."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from retinanet.detection.assignment import Assign
from retinanet.detection.postprocess import Postprocess
from retinanet.evaluation.coco import CocoScores, coco_results, score_results
from retinanet.formats.coco import CocoData
from retinanet.losses.detection import DetectionLoss
from retinanet.runtime.console import progress
from retinanet.runtime.device import autocast
from retinanet.runtime.distributed import gather
from retinanet.structures import Batch, Detections


class Evaluation(NamedTuple):
    scores: CocoScores
    results: list[dict[str, Any]]  # COCO results form, by image id
    detections: dict[int, Detections]  # by position in the data set
    losses: dict[str, float]  # per positive anchor of the whole set


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    data: CocoData,
    *,
    postprocess: Postprocess,
    criterion: DetectionLoss,
    assign: Assign,
    device: torch.device,
    dtype: torch.dtype,
    num_batches: int | None = None,
) -> Evaluation | None:
    """Detect on every batch and score the whole. The model's mode is as before, whatever happens.

    With several processes each has its batches, and the main one scores what all of them found; the others get None.
    """
    was_training = model.training
    model.eval()
    detections: dict[int, Detections] = {}
    sums: list[torch.Tensor] = []  # of each batch: class loss, box loss, positive anchors
    one = torch.ones((), device=device)
    try:
        for batch in progress(batches, "evaluating", num_batches):
            batch = batch.to(device)
            with autocast(device, dtype):
                predictions = model(batch.images, batch.image_sizes)
            matched = assign(predictions.anchors, batch.targets)
            losses = criterion(predictions, matched, batch.targets, one)
            sums.append(torch.stack([losses.classification, losses.box_regression, matched.positive.sum().float()]))
            found = postprocess(predictions, batch.image_sizes, batch.original_sizes)
            detections |= zip(batch.image_indices, found, strict=True)
    finally:
        model.train(was_training)
    gathered = gather((detections, [figures.tolist() for figures in sums]))
    if gathered is None:
        return None
    figures = []
    for their_detections, their_figures in gathered:
        detections |= their_detections
        figures += their_figures
    order = sorted(detections, key=lambda index: data.records[index].image_id)
    results = coco_results(((data.records[index].image_id, detections[index]) for index in order), data.category_ids)
    scores = score_results(data.ground_truth, results)
    # Exact sums: whichever process had which batch, they are the same.
    class_loss, box_loss, num_positive = map(math.fsum, zip(*figures, strict=True))
    num_positive = max(num_positive, 1.0)
    losses = {"class_loss": class_loss / num_positive, "box_loss": box_loss / num_positive}
    return Evaluation(scores, results, detections, {"loss": sum(losses.values()), **losses})
