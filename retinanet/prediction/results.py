"""Results of a prediction, read from its journal image by image."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from retinanet.prediction.journal import Journal
from retinanet.prediction.plan import InputImage


class ImageResult(NamedTuple):
    """The detections in one image, in pixels of the image as displayed."""

    image_id: int  # position of the image among the inputs, counted from 1
    name: str
    stem: str  # of the names of its output files
    height: int
    width: int
    boxes: list[list[float]]  # (x1, y1, x2, y2)
    scores: list[float]
    labels: list[int]


class Failure(NamedTuple):
    """An image that could not be read, and the reason."""

    name: str
    reason: str


class Results:
    """The recorded results of a list of images, in their order; iterating reads them one by one.

    Args:
        thresholds: by label, the score from which detections are in the results.
    """

    def __init__(
        self,
        journal: Journal,
        images: Sequence[InputImage],
        *,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        thresholds: Sequence[float],
    ):
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.thresholds = tuple(thresholds)
        self._journal = journal
        self._images = images

    def __iter__(self) -> Iterator[ImageResult]:
        for number, image in enumerate(self._images, start=1):
            record = self._journal.record(image.path)
            if record is not None and "error" not in record:
                height, width = record["size"]
                boxes, scores, labels = record["boxes"], record["scores"], record["labels"]
                yield ImageResult(number, image.name, image.stem, height, width, boxes, scores, labels)

    def failures(self) -> list[Failure]:
        """The images that could not be read."""
        failed = []
        for image in self._images:
            entry = self._journal.entry(image.path)
            if entry is not None and entry.failed:
                record = self._journal.record(image.path) or {}
                failed.append(Failure(image.name, record["error"]))
        return failed
