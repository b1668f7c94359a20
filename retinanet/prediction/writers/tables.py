"""Write tables of the detections and of the number of objects as CSV files."""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from typing import IO

from retinanet.formats.csv.columns import EXPECTED
from retinanet.prediction.results import Results


def write_detections(results: Results, file: IO[bytes]) -> None:
    """Write one row per detection: the columns of a CSV file of annotations, the score, and the score threshold."""
    table = _Table(file)
    table.row([*EXPECTED.split(","), "score", "threshold"])
    for image in results:
        for box, score, label in zip(image.boxes, image.scores, image.labels, strict=True):
            table.row([image.name, *box, results.class_names[label], score, results.thresholds[label]])


def write_counts(results: Results, file: IO[bytes]) -> None:
    """Write the number of objects of each class in each image, in total, and the score threshold of each class."""
    table = _Table(file)
    classes = range(len(results.class_names))
    table.row(["image_path", *results.class_names, "all classes"])
    total: Counter[int] = Counter()
    for image in results:
        counts = Counter(image.labels)
        total += counts
        table.row([image.name, *(counts[label] for label in classes), counts.total()])
    table.row(["all images", *(total[label] for label in classes), total.total()])
    table.row(["score threshold", *results.thresholds, ""])


class _Table:
    """Writes CSV rows to a binary file, in UTF-8; file names need not be valid Unicode."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, lineterminator="\n")

    def row(self, values: Iterable[object]) -> None:
        self._writer.writerow(values)
        self._file.write(self._text.getvalue().encode("utf-8", "surrogateescape"))
        self._text.seek(0)
        self._text.truncate()
