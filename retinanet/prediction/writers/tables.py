"""Write tables of the detections and of the number of objects as CSV files."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import IO

from retinanet.formats.csv.columns import EXPECTED
from retinanet.prediction.results import ImageResult, Results


def write_detections(results: Results, file: IO[bytes]) -> None:
    """Write one row per detection: the columns of a CSV file of annotations, the score, and the score threshold.

    If there are videos, further columns contain the name of the video, and the number and time of the frame.
    """
    table = _Table(file)
    table.row([*EXPECTED.split(","), "score", "threshold", *_frame_columns(results)])
    for image in results:
        for box, score, label in zip(image.boxes, image.scores, image.labels, strict=True):
            place = _frame_values(image)
            table.row([image.name, *box, results.class_names[label], score, results.thresholds[label], *place])


def write_counts(results: Results, file: IO[bytes]) -> None:
    """Write the number of objects of each class in each image, in total, and the score threshold of each class.

    Each frame of a video counts as an image; if there are videos, the columns for them are those of `write_detections`.
    """
    table = _Table(file)
    classes = range(len(results.class_names))
    table.row(["image_path", *results.class_names, "all classes", *_frame_columns(results)])
    total: Counter[int] = Counter()
    for image in results:
        counts = Counter(image.labels)
        total += counts
        table.row([image.name, *(counts[label] for label in classes), counts.total(), *_frame_values(image)])
    table.row(["all images", *(total[label] for label in classes), total.total()])
    table.row(["score threshold", *results.thresholds, ""])


def _frame_columns(results: Results) -> list[str]:
    return ["video", "frame", "time_s"] if results.has_videos else []


def _frame_values(image: ImageResult) -> list[object]:
    """The values of the columns for frames; none for an image."""
    return [] if image.frame is None else [image.frame.video, image.frame.number, image.frame.time]


class _Table:
    """Writes CSV rows, as long as the first one, to a binary file, in UTF-8; file names need not be valid Unicode."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._width = 0

    def row(self, values: Sequence[object]) -> None:
        self._width = self._width or len(values)
        self._writer.writerow([*values, *[""] * (self._width - len(values))])
        self._file.write(self._text.getvalue().encode("utf-8", "surrogateescape"))
        self._text.seek(0)
        self._text.truncate()
