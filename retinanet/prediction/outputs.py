"""The output folder of a prediction: names of its files, checks that nothing is overwritten, and atomic writes."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from retinanet.errors import InputError
from retinanet.formats.videos.names import is_video_name

ImageFormat = Literal["png", "jpg"]

COCO_FILE, TABLE_FILE, COUNTS_FILE = "detections.json", "detections.csv", "counts.csv"
CROPS_FOLDER, YOLO_FOLDER, CLASSES_FILE = "crops", "labels", "classes.txt"
_PARTIAL = ".predict.partial"


@dataclass(frozen=True)
class Outputs:
    """What to write in addition to detections.json, detections.csv and counts.csv."""

    draw: bool = True  # the images with their detections drawn on them
    labels: bool = True  # draw class names and scores
    image_format: ImageFormat = "png"
    crops: bool = False  # an image of each object
    yolo: bool = False  # a label file for each image and each frame of a video

    def drawn_name(self, stem: str) -> str:
        """Name of the drawn image, relative to the output folder."""
        return f"{stem}.{self.image_format}"

    def names_for(self, stem: str) -> list[str]:
        """Names of all files of an image, apart from crops."""
        return ([self.drawn_name(stem)] if self.draw else []) + ([label_name(stem)] if self.yolo else [])

    def names_for_video(self, stem: str) -> list[str]:
        """Names of all files of a video, apart from crops; of label files, only the folder."""
        return ([drawn_video_name(stem)] if self.draw else []) + ([f"{YOLO_FOLDER}/{stem}"] if self.yolo else [])

    def shared_names(self) -> list[str]:
        """Names of the files and folders that are not of a single image."""
        tables = [COCO_FILE, TABLE_FILE, COUNTS_FILE]
        return tables + ([CLASSES_FILE] if self.yolo else []) + ([CROPS_FOLDER] if self.crops else [])


def label_name(stem: str) -> str:
    """Name of the YOLO label file of an image, relative to the output folder."""
    return f"{YOLO_FOLDER}/{stem}.txt"


def drawn_video_name(stem: str) -> str:
    """Name of the video with its detections drawn on it, relative to the output folder."""
    return f"{stem}.mp4"


def frame_stem(stem: str, number: int) -> str:
    """The name of the output files of a frame, without suffix; `stem` is that of its video."""
    return f"{stem}/{number:06}"


def output_stems(names: Sequence[str]) -> list[str]:
    """The name of the output files of each image or video, without their suffix, relative to the output folder.

    It is the name of the input without its suffix, or with it if another input differs only in its suffix. A video also
    keeps its suffix if an input is in a folder with its name without suffix: this would be the folder of its frames.
    """
    stems = [os.path.splitext(name)[0] for name in names]
    counts = Counter(map(_folded, stems))
    folders = {_folded(parent) for stem in stems for parent in _parents(stem)}
    stems = [
        name if counts[_folded(stem)] > 1 or (is_video_name(name) and _folded(stem) in folders) else stem
        for name, stem in zip(names, stems, strict=True)
    ]
    used: set[str] = set()
    unique = []
    for stem in stems:
        candidate, number = stem, 1
        while _folded(candidate) in used:
            number += 1
            candidate = f"{stem}_{number}"
        used.add(_folded(candidate))
        unique.append(candidate)
    return unique


def check_nothing_is_overwritten(folder: Path, names: Iterable[str], *, inputs: Iterable[str], ours: set[str]) -> None:
    """Check that the files to be written replace neither inputs nor files that no prediction has written.

    Args:
        names: names of the files, relative to the folder.
        inputs: paths of the images and videos to predict on.
        ours: the names of those that an earlier prediction has written.

    Raises:
        InputError: a file would be overwritten.
    """
    resolved = {os.path.realpath(path) for path in inputs}
    for name in names:
        path = folder / name
        if os.path.realpath(path) in resolved:
            kind = "videos" if is_video_name(name) else "images"
            raise InputError(
                f"{path}: is one of the {kind} to predict on and will not be overwritten; choose another --output"
            )
        if name not in ours and os.path.lexists(path):
            raise InputError(
                f"{path}: already exists and was not written by `retinanet predict`; choose another --output"
            )


class OutputFolder:
    """Writes files into a folder, each atomically: after a crash, a file is complete or unchanged."""

    def __init__(self, path: Path):
        self.path = path

    @contextmanager
    def replacing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for writing, which replaces the file of this name at the end of the `with` block.

        Raises:
            InputError: the file cannot be written.
        """
        partial = self.path / _PARTIAL
        try:
            try:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                with open(partial, "wb") as file:
                    yield file
                os.replace(partial, self.path / name)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path / name}: cannot be written: {error.strerror or error}; to continue, correct this and run "
                "the same command again, without --overwrite"
            ) from None

    def write(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises:
            InputError: the file cannot be written.
        """
        with self.replacing(name) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Remove a file if it exists, and the folders that are empty without it.

        Raises:
            InputError: the file cannot be removed.
        """
        path = self.path / name
        if path.is_dir() or not os.path.lexists(path):
            return
        try:
            path.unlink()
            for parent in path.parents:
                if parent == self.path or any(parent.iterdir()):
                    return
                parent.rmdir()
        except OSError as error:  # on Windows, also if another program has opened the file
            raise InputError(
                f"{path}: cannot be removed: {error.strerror or error}; correct its permissions or close the program "
                "that uses it, and run the same command again"
            ) from None

    def has(self, name: str) -> bool:
        """Whether a file exists and is not empty, as it may be after a power failure."""
        try:
            return (self.path / name).stat().st_size > 0
        except OSError:
            return False


def _parents(name: str) -> list[str]:
    """The folders that a relative name is in, from the outermost to the innermost."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _folded(name: str) -> str:
    """A name as file systems that ignore case and Unicode normalisation compare it."""
    return unicodedata.normalize("NFC", name).casefold()
