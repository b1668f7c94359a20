"""Results of a prediction, read from its journal one image or frame at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from retinanet.prediction.journal import Journal
from retinanet.prediction.outputs import frame_stem
from retinanet.prediction.plan import InputFile


class FrameOf(NamedTuple):
    """The place of a frame in a video."""

    video_id: int  # position of the video among the videos, counted from 1
    video: str  # name of the video
    number: int  # in the video, counted from 0
    time: float  # seconds after the first frame


class VideoInfo(NamedTuple):
    """A video of which a frame has been processed."""

    video_id: int
    name: str
    height: int
    width: int


class ImageResult(NamedTuple):
    """The detections in one image or frame, in pixels of the image as displayed."""

    image_id: int  # position of the image among the images, counted from 1; frames of videos are counted after them
    name: str
    stem: str  # of the names of its output files
    height: int
    width: int
    boxes: list[list[float]]  # (x1, y1, x2, y2)
    scores: list[float]
    labels: list[int]
    frame: FrameOf | None = None  # None: an image


class Failure(NamedTuple):
    """An image or video that could not be read completely, and the reason."""

    name: str
    reason: str


class Results:
    """The recorded results of images, and of the frames of videos, in their order; iterating reads them one by one.

    Args:
        thresholds: by label, the score from which detections are in the results.
    """

    def __init__(
        self,
        journal: Journal,
        images: Sequence[InputFile],
        *,
        videos: Sequence[InputFile] = (),
        class_names: Sequence[str],
        category_ids: Sequence[int],
        thresholds: Sequence[float],
    ):
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.thresholds = tuple(thresholds)
        self._journal = journal
        self._images = images
        self._videos = videos

    @property
    def has_videos(self) -> bool:
        """Whether there are videos among the inputs."""
        return bool(self._videos)

    @property
    def num_frames(self) -> int:
        """Number of frames of videos that have a result."""
        entries = [self._journal.entry(video.path) for video in self._videos]
        return sum(entry.num_frames for entry in entries if entry is not None)

    def __iter__(self) -> Iterator[ImageResult]:
        for number, image in enumerate(self._images, start=1):
            record = self._journal.record(image.path)
            if record is not None and "error" not in record:
                yield _result(record, record["size"], number, image.name, image.stem)
        number = len(self._images)
        for video_id, video in enumerate(self._videos, start=1):
            for part in self._journal.parts(video.path):
                for frame in part["frames"]:
                    number += 1
                    stem = frame_stem(video.stem, frame["frame"])
                    place = FrameOf(video_id, video.name, frame["frame"], frame["time"])
                    yield _result(frame, part["size"], number, f"{stem}.png", stem, place)

    def videos(self) -> Iterator[VideoInfo]:
        """Yield the videos of which a frame has been processed."""
        for video_id, video in enumerate(self._videos, start=1):
            entry = self._journal.entry(video.path)
            if entry is not None and entry.num_frames:
                first = next(self._journal.parts(video.path))
                yield VideoInfo(video_id, video.name, *first["size"])

    def failures(self) -> list[Failure]:
        """The images and videos that could not be read completely."""
        failed = []
        for file in (*self._images, *self._videos):
            entry = self._journal.entry(file.path)
            if entry is not None and entry.failed:
                record = self._journal.record(file.path) or {}
                failed.append(Failure(file.name, record["error"]))
        return failed


def _result(
    record: Mapping[str, Any], size: Sequence[int], image_id: int, name: str, stem: str, frame: FrameOf | None = None
) -> ImageResult:
    height, width = size
    return ImageResult(image_id, name, stem, height, width, record["boxes"], record["scores"], record["labels"], frame)
