"""Evaluate a network on a validation set: detections, COCO AP, and the loss."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from retinanet.config import Config
from retinanet.data.build import build_eval_sampler, build_reader, eval_loader
from retinanet.detection.assignment import Assign
from retinanet.detection.build import build_assignment
from retinanet.detection.postprocess import Postprocess, build_postprocess
from retinanet.evaluation.coco import CocoScores, score_detections
from retinanet.formats.dataset import Dataset
from retinanet.formats.images.windows import DecodedImage
from retinanet.inference.image_detector import build_image_detector
from retinanet.losses.build import build_criterion
from retinanet.losses.class_loss import ClassLoss
from retinanet.losses.detection import Criterion
from retinanet.runtime.console import progress
from retinanet.runtime.distributed import gather, is_main, rank, world_size
from retinanet.structures import Batch, Detections


class Evaluation(NamedTuple):
    """Results of one evaluation."""

    scores: CocoScores
    detections: dict[int, Detections]  # keyed by image index
    losses: dict[str, float]  # loss, class_loss and box_loss, divided by the number of positive anchors in the dataset

    @property
    def metrics(self) -> dict[str, float]:
        """COCO metrics and losses by name."""
        return self.scores.metrics | self.losses

    @property
    def metrics_and_classes(self) -> dict[str, float]:
        """The metrics, and the AP of each class as `AP/NAME`."""
        return self.metrics | {f"AP/{name}": value for name, value in self.scores.per_class.items()}


def evaluate_dataset(
    cfg: Config,
    network: nn.Module,
    data: Dataset,
    *,
    device: torch.device,
    loss: ClassLoss | Criterion | None = None,
    on_batch: Callable[[Batch | None], None] = lambda batch: None,
) -> Evaluation | None:
    """Evaluate a network on a dataset, using the image sizes, postprocessing, assignment and loss from a config.

    Training and `retinanet eval` both call this with the result of `inference_model`, so a checkpoint gets the same
    scores in both. With tiles or test-time augmentation, the detections are those of all views of an image, merged as
    in prediction, and the losses remain those of the whole image.

    Args:
        network: called as `network(images, image_sizes)`; returns `HeadOutputs`.
        loss: a loss passed in Python; None: that of the config.
        on_batch: called with each batch before the model runs on it, again after each view of its images if they may
            have several, and with None before the detections are scored.

    Returns: the evaluation on the main process, None on all others.
    """
    criterion = build_criterion(cfg.loss, loss, num_classes=len(data.class_names))
    if isinstance(criterion, nn.Module):
        criterion.to(device)
    # Divide whole batches among the processes, which makes the results independent of their number.
    own_batches = build_eval_sampler(cfg, data)[rank() :: world_size()]

    def batches() -> Iterator[Batch]:
        for batch in eval_loader(cfg, data, own_batches, pin_memory=device.type == "cuda"):
            on_batch(batch)
            yield batch
        on_batch(None)

    detector, reader = build_image_detector(cfg, network, device=device), build_reader(cfg, data, [], seed=0)

    def detect_in_views(batch: Batch) -> list[Detections]:
        batch_size = cfg.train.eval_batch_size or cfg.train.batch_size
        found = []
        for index in batch.image_indices:
            image = DecodedImage(reader.read(index).image)
            # The views of a large image may take longer than `train.stall_timeout`.
            found += detector([image], batch_size=batch_size, progress=lambda finished, total: on_batch(batch))
        return found

    return evaluate_batches(
        network,
        batches(),
        data,
        postprocess=build_postprocess(cfg.postprocess, background_logit=cfg.model.has_background_logit),
        criterion=criterion,
        assign=build_assignment(cfg.assignment),
        device=device,
        num_batches=len(own_batches),
        max_detections=cfg.evaluation.max_detections,
        detect_in_views=detect_in_views if detector.views.has_several else None,
    )


@torch.no_grad()
def evaluate_batches(
    network: nn.Module,
    batches: Iterable[Batch],
    data: Dataset,
    *,
    postprocess: Postprocess,
    criterion: Criterion,
    assign: Assign,
    device: torch.device,
    num_batches: int | None = None,
    max_detections: int | None = None,
    detect_in_views: Callable[[Batch], list[Detections]] | None = None,
) -> Evaluation | None:
    """Run a network on batches and score its detections.

    With several processes, each runs the network on its own batches, and the main process scores all detections.

    Args:
        network: called as `network(images, image_sizes)`; returns `HeadOutputs`.
        batches: the batches of this process. Across all processes, every image of `data` must occur exactly once.
        num_batches: number of batches of this process, for the progress bar.
        max_detections: see `score_detections`.
        detect_in_views: detects objects in the original images of a batch; None: in the images of the batch.

    Returns: the evaluation on the main process, None on all others.
    """
    detections: dict[int, Detections] = {}
    sums: list[torch.Tensor] = []  # per batch: class loss, box loss, positive anchors
    one = torch.ones((), device=device)
    for batch in progress(batches, "evaluating", num_batches, silent=not is_main()):
        batch = batch.to(device)
        outputs = network(batch.images, batch.image_sizes)
        assignment = assign(outputs.anchors, batch.targets)
        losses = criterion(outputs, assignment, batch.targets, one)
        sums.append(torch.stack([losses.classification, losses.box_regression, assignment.positive.sum().float()]))
        if detect_in_views is None:
            found = postprocess(outputs, batch.image_sizes, batch.original_sizes)
        else:
            found = detect_in_views(batch)
        detections |= zip(batch.image_indices, found, strict=True)
    gathered = gather((detections, [values.tolist() for values in sums]))
    if gathered is None:
        return None
    sums_of_all = []
    for rank_detections, rank_sums in gathered:
        detections |= rank_detections
        sums_of_all += rank_sums
    scores = score_detections(data, detections, max_detections=max_detections)
    # fsum is exact, so the sums do not depend on how the batches were divided among the processes.
    class_loss, box_loss, num_positive = map(math.fsum, zip(*sums_of_all, strict=True))
    num_positive = max(num_positive, 1.0)
    means = {"class_loss": class_loss / num_positive, "box_loss": box_loss / num_positive}
    return Evaluation(scores, detections, {"loss": sum(means.values()), **means})
