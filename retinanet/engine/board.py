"""Log a run to TensorBoard: curves, images with boxes, precision-recall curves, and the config."""

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torchvision.transforms.v2 import functional as F

from retinanet.config import Config
from retinanet.config.flat import flat_config
from retinanet.data.reader import SampleReader
from retinanet.data.transforms.sample import Sample
from retinanet.errors import InputError
from retinanet.evaluation.curves import PrecisionRecall, precision_recall_curves
from retinanet.evaluation.matches import match_detections
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections
from retinanet.visualization.draw import draw_boxes, draw_detections

log = logging.getLogger(__name__)

FOLDER = "tensorboard"
VALIDATION_IMAGES = 4  # per evaluation
MAX_CLASSES = 20  # with a precision-recall curve, in each evaluation
NUM_THRESHOLDS = 101  # score thresholds of a curve
MAX_SIDE = 480  # pixels of the longer side of an image: an event file keeps the images of all evaluations
GAP = 8  # pixels between ground truth and detections
PNG_COMPRESSION = 1  # a fifth of the time of the default level, for files 17% larger
COMPARED_METRICS = ("eval/AP", "eval/AP50", "eval/loss")  # columns of the table of runs


class Board:
    """Writes to the TensorBoard folder of a run. After a disk error, it writes nothing more.

    Args:
        folder: the run folder.
        resumed_at: step of the checkpoint that the run resumes from; later events are hidden. None for a new run.

    Raises:
        InputError: the folder is not writable, or the disk is full.
    """

    def __init__(self, folder: Path, *, resumed_at: int | None = None):
        purge_step = None if resumed_at is None else resumed_at + 1
        try:
            self._writer: SummaryWriter | None = SummaryWriter(str(folder / FOLDER), purge_step=purge_step)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to: {error.strerror}; free up disk space") from None

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each of the curves `kind/NAME`."""
        with self._writer_or_none() as writer:
            for name, value in values.items() if writer else ():
                writer.add_scalar(f"{kind}/{name}", value, step)

    def config(self, cfg: Config) -> None:
        """Add the config to the table of runs, one column per key."""
        values = {
            key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for key, value in flat_config(cfg).items()
        }
        # SummaryWriter.add_hparams would create another run, without the curves of this one.
        experiment, session, _ = hparams(values, dict.fromkeys(COMPARED_METRICS, 0.0))
        with self._writer_or_none() as writer:
            if writer and writer.file_writer:
                writer.file_writer.add_summary(experiment)
                writer.file_writer.add_summary(session)

    def training_images(self, samples: Sequence[Sample], class_names: Sequence[str]) -> None:
        """Show transformed training images with their boxes."""
        for number, sample in enumerate(samples):
            drawn = _draw_objects(sample.image, sample.boxes, sample.labels, sample.is_crowd, class_names)
            self._image(f"training/{number}", drawn, step=0)

    def validation_images(self, step: int, detections: Mapping[int, Detections], reader: SampleReader) -> None:
        """Show ground truth and detections side by side, on a few images of the reader's dataset with objects."""
        data = reader.dataset
        for number, index in enumerate(_spread_out(data, VALIDATION_IMAGES)):
            sample = reader.read(index)
            image, factor = _shrunk(sample.image)
            truth = _draw_objects(sample.image, sample.boxes, sample.labels, sample.is_crowd, data.class_names)
            found = detections[index]
            scaled = Detections(factor * found.boxes.cpu(), found.scores, found.labels)
            gap = torch.full((3, image.shape[1], GAP), 255, dtype=torch.uint8)
            drawn = draw_detections(image, scaled, data.class_names)
            self._image(f"validation/{number}", torch.cat([truth, gap, drawn], dim=2), step)

    def precision_recall(self, step: int, data: Dataset, detections: Mapping[int, Detections]) -> None:
        """Show precision-recall curves at an IoU of 0.5, for the classes with the most objects."""
        curves = precision_recall_curves(match_detections(data, detections))
        by_size = sorted(range(len(curves)), key=lambda label: -curves[label].num_objects)
        for label in sorted(by_size[:MAX_CLASSES]):
            curve = curves[label]
            if not curve.num_objects:
                continue
            true, false = counts_at(curve, np.linspace(0, 1, NUM_THRESHOLDS))
            found = true + false
            precision = np.divide(true, found, out=np.ones(NUM_THRESHOLDS), where=found > 0)
            with self._writer_or_none() as writer:
                if writer:
                    writer.add_pr_curve_raw(
                        f"precision_recall/{data.class_names[label]}",
                        true,
                        false,
                        np.zeros(NUM_THRESHOLDS),  # detection has no true negatives
                        curve.num_objects - true,
                        precision,
                        true / curve.num_objects,
                        step,
                        NUM_THRESHOLDS,
                    )

    def close(self) -> None:
        """Write everything that is pending, and close the files."""
        with self._writer_or_none() as writer:
            if writer:
                writer.close()

    def _image(self, tag: str, image: Tensor, step: int) -> None:
        with self._writer_or_none() as writer:
            if writer and writer.file_writer:
                writer.file_writer.add_summary(_image_summary(tag, image), step)

    @contextmanager
    def _writer_or_none(self) -> Iterator[SummaryWriter | None]:
        """Yield the TensorBoard writer, or None after a disk error, from which the writer cannot recover."""
        try:
            yield self._writer
        except OSError as error:
            self._writer = None
            log.warning("TensorBoard logging stopped: %s; metrics continue in metrics.jsonl", error)


def _image_summary(tag: str, image: Tensor) -> Summary:
    """The event of an image (3, H, W) uint8; `SummaryWriter.add_image` would spend most of its time on compression."""
    file = io.BytesIO()
    F.to_pil_image(image).save(file, "PNG", compress_level=PNG_COMPRESSION)
    _, height, width = image.shape
    content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=content)])


def counts_at(curve: PrecisionRecall, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives among the detections with a score of at least each threshold: (T,) int64 each."""
    counted = np.searchsorted(-curve.scores, -thresholds, side="right")  # scores that reach the threshold
    true, false = ([0, *counts.tolist()] for counts in (curve.true_positives, curve.false_positives))
    return np.array(true)[counted], np.array(false)[counted]


def _spread_out(data: Dataset, count: int) -> list[int]:
    """Indices of at most `count` images, spread over those with boxes, or over all if none has any."""
    candidates = np.flatnonzero(np.diff(data.box_start))
    if not len(candidates):
        candidates = np.arange(len(data))
    places = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).astype(int)
    return candidates[np.unique(places)].tolist()


def _shrunk(image: Tensor) -> tuple[Tensor, float]:
    """Shrink an image to a longer side of at most `MAX_SIDE`; also return the factor."""
    height, width = image.shape[-2:]
    factor = min(1.0, MAX_SIDE / max(height, width))
    size = [max(1, round(factor * height)), max(1, round(factor * width))]
    return (F.resize(image, size) if factor < 1 else image), factor


def _draw_objects(image: Tensor, boxes: Tensor, labels: Tensor, is_crowd: Tensor, class_names: Sequence[str]) -> Tensor:
    """Draw ground truth on a copy of an image, shrunk to at most `MAX_SIDE`."""
    shrunk, factor = _shrunk(image)
    texts = [
        f"{class_names[label]} (crowd)" if crowd else class_names[label]
        for label, crowd in zip(labels.tolist(), is_crowd.tolist(), strict=True)
    ]
    return draw_boxes(shrunk, factor * boxes, texts, labels.tolist(), len(class_names))
