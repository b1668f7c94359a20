"""Run recorder: writes metrics, checkpoints and the list of unreadable images, on the main process only."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from retinanet.checkpoint.file import Checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.writer import CheckpointWriter
from retinanet.data.quarantine import Quarantine
from retinanet.data.reader import SampleReader
from retinanet.engine.evaluate import Evaluation
from retinanet.engine.metrics_log import MetricsLog
from retinanet.engine.run_files import UNREADABLE_FILE
from retinanet.formats.dataset import Dataset
from retinanet.runtime.distributed import is_main
from retinanet.structures import Unreadable


class Outputs(NamedTuple):
    """Outputs of the main process."""

    metrics_log: MetricsLog
    checkpoints: CheckpointWriter
    quarantine: Quarantine


class Recorder:
    """Writes on the main process and does nothing on the others, so callers need not distinguish between processes.

    Args:
        outputs: None on all processes except the main one.
    """

    def __init__(self, outputs: Outputs | None):
        self._outputs = outputs

    def write_train_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Append a line with the metrics of the steps since the previous one."""
        if self._outputs:
            self._outputs.metrics_log.write("train", step, metrics)

    def write_evaluation(self, step: int, evaluation: Evaluation, reader: SampleReader) -> None:
        """Append the metrics of an evaluation, including AP per class, and show detections on the reader's images."""
        if self._outputs:
            self._outputs.metrics_log.write("eval", step, evaluation.metrics_and_classes)
            self._outputs.metrics_log.images(step, evaluation.detections, reader)

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
    folder: Path, checkpoints: CheckpointFolder, *, resumed_at: int | None, max_unreadable: int
) -> Iterator[Recorder]:
    """Open the outputs of a run on the main process; on exit, finish pending checkpoints and close everything.

    Args:
        folder: the run folder.
        resumed_at: step of the checkpoint that the run resumes from; later metrics are removed. None for a new run.
        max_unreadable: maximum number of unreadable images.

    Raises:
        InputError: an output cannot be opened.
    """
    if not is_main():
        yield Recorder(None)
        return
    quarantine = Quarantine(folder / UNREADABLE_FILE, budget=max_unreadable)
    with closing(MetricsLog(folder, resumed_at=resumed_at)) as metrics_log, CheckpointWriter(checkpoints) as writer:
        yield Recorder(Outputs(metrics_log, writer, quarantine))
