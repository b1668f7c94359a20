"""Run recorder: writes metrics, TensorBoard events, checkpoints and unreadable images, on the main process only."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from torchvision.transforms import v2

from retinanet.checkpoint.file import Checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.writer import CheckpointWriter
from retinanet.config import Config
from retinanet.data.build import build_train_sampler
from retinanet.data.preview import augmented_samples
from retinanet.data.quarantine import Quarantine
from retinanet.data.reader import SampleReader
from retinanet.engine.board import Board
from retinanet.engine.callbacks import Callbacks
from retinanet.engine.evaluate import Evaluation
from retinanet.engine.metrics_log import MetricsLog
from retinanet.engine.run_files import UNREADABLE_FILE
from retinanet.engine.setup import Run
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.runtime.distributed import gather, is_main, on_main
from retinanet.structures import Unreadable

TRAINING_IMAGES = 8  # shown at the start of a run


class Outputs(NamedTuple):
    """Outputs of the main process."""

    metrics_log: MetricsLog
    board: Board
    checkpoints: CheckpointWriter
    quarantine: Quarantine
    callbacks: Callbacks


class Recorder:
    """Writes on the main process and does nothing on the others, so callers need not distinguish between processes.

    Args:
        outputs: None on all processes except the main one.
    """

    def __init__(self, outputs: Outputs | None):
        self._outputs = outputs

    def write_start(self, cfg: Config, data: Dataset, extra_transforms: Sequence[v2.Transform] = ()) -> None:
        """Show the config of a new run, and the first training images as the network will see them."""
        if self._outputs:
            self._outputs.board.config(cfg)
            first = itertools.chain.from_iterable(build_train_sampler(cfg, data))
            planned = list(itertools.islice(first, TRAINING_IMAGES))
            with suppress(InputError):  # training reports images that can be neither read nor replaced
                samples = augmented_samples(cfg, data, planned, extra_transforms=extra_transforms)
                self._outputs.board.training_images(samples, data.class_names)

    def write_train_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Append a line with the metrics of the steps since the previous one."""
        if self._outputs:
            self._outputs.metrics_log.write("train", step, metrics)
            self._outputs.board.scalars("train", step, metrics)
            self._outputs.callbacks.log(step, metrics)

    def write_evaluation(self, step: int, evaluation: Evaluation, reader: SampleReader) -> None:
        """Append the metrics of an evaluation, including AP per class, and show some of the reader's images."""
        if self._outputs:
            self._outputs.metrics_log.write("eval", step, evaluation.metrics_and_classes)
            self._outputs.board.scalars("eval", step, evaluation.metrics_and_classes)
            self._outputs.board.validation_images(step, evaluation.detections, reader)
            self._outputs.board.precision_recall(step, reader.dataset, evaluation.detections)
            self._outputs.callbacks.evaluated(step, evaluation.metrics_and_classes, evaluation.detections)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint in the background. The caller may modify the state once this returns."""
        if self._outputs:
            self._outputs.checkpoints.save(checkpoint)

    def mark_best(self, step: int) -> None:
        """Point `best.pt` to the checkpoint of a step."""
        if self._outputs:
            self._outputs.checkpoints.mark_best(step)

    def record_unreadable(self, unreadable: Sequence[tuple[int, Unreadable]], data: Dataset) -> None:
        """Record images that could not be read, each with its step.

        Raises:
            InputError: the number of unreadable images exceeds `data.max_unreadable`.
        """
        if self._outputs:
            self._outputs.quarantine.add(unreadable, data)


@contextmanager
def open_recorder(
    folder: Path,
    checkpoints: CheckpointFolder,
    *,
    resumed_at: int | None,
    max_unreadable: int,
    callbacks: Callbacks | None = None,
) -> Iterator[Recorder]:
    """Open the outputs of a run on the main process; on exit, finish pending checkpoints and close everything.

    Args:
        folder: the run folder.
        resumed_at: step of the checkpoint that the run resumes from; later metrics are removed. None for a new run.
        max_unreadable: maximum number of unreadable images.
        callbacks: called with the metrics of training steps and evaluations; None: no callbacks.

    Raises:
        InputError: an output cannot be opened.
    """
    if not is_main():
        yield Recorder(None)
        return
    quarantine = Quarantine(folder / UNREADABLE_FILE, budget=max_unreadable)
    with (
        closing(MetricsLog(folder, resumed_at=resumed_at)) as metrics_log,
        closing(Board(folder, resumed_at=resumed_at)) as board,
        CheckpointWriter(checkpoints) as writer,
    ):
        yield Recorder(Outputs(metrics_log, board, writer, quarantine, callbacks or Callbacks()))


def record_unreadable(run: Run, recorder: Recorder) -> None:
    """Record the images that any process failed to read since the last call. Collective.

    Raises:
        InputError: the number of unreadable images exceeds `data.max_unreadable`.
    """
    gathered = gather(run.state.unreadable)
    run.state.unreadable = []
    of_all = [image for images in gathered or [] for image in images]
    on_main(lambda: recorder.record_unreadable(of_all, run.train_data))
