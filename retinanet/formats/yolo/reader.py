"""Read datasets in YOLO format: one text file per image, with class numbers and boxes as fractions of the image."""

import io
import math
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.findings import FindingCounter
from retinanet.formats.image_paths.listing import image_files
from retinanet.formats.splits import choose_split
from retinanet.formats.text_files.content import encoding_of, read_limited
from retinanet.formats.yolo.layout import NAME_FILES, YoloLayout, find_yolo, images_of_entry, label_file

MAX_BYTES = 20_000_000  # of a label file; 100,000 boxes take less
MAX_LINE = 1_000_000  # characters of a line; a polygon of 20,000 points takes less
OUTSIDE_TOLERANCE = 0.01  # how far boxes may extend beyond the image, as a fraction of it

# Errors.
NOT_READABLE = "{count} label file(s) cannot be read; correct or restore them"
NOT_NUMBERS = "{count} line(s) are not finite numbers, expected class, centre x, centre y, width, height"
WRONG_COUNT = (
    "{count} line(s) have the wrong number of values, expected a box (class, centre x, centre y, width, height, and "
    "optionally a confidence) or a polygon (class, then x and y of at least three points)"
)
UNKNOWN_CLASS = (
    "{{count}} line(s) have a class number without a name: {file} has {number} name(s), numbered from 0; correct the "
    "numbers or add the missing names"
)
IN_PIXELS = (
    "{count} line(s) have values outside 0 to 1, expected fractions of the image; if the values are pixels, divide x "
    "and width by the width of the image, and y and height by its height"
)

# Warnings and notes.
NO_LABEL_FILE = "{count} image(s) have no label file, and therefore no objects"
NO_IMAGE = "{count} label file(s) are not used, because there is no image with the same name"
IS_POLYGON = "{count} polygon(s) or oriented box(es) are replaced by the boxes around them"
HAS_CONFIDENCE = "{count} label(s) have a sixth value, a confidence, which is ignored"
NOT_LABELS = (*NAME_FILES, "notes.txt", "train.txt", "val.txt", "test.txt")


def read_yolo(source: DataSource, part: str) -> Annotations:
    """Read one split of a YOLO dataset. An image whose label file is missing or empty has no objects.

    Labels of segments and oriented boxes are polygons; they become the boxes around them. A sixth value, a confidence,
    is ignored, and so are keypoints if data.yaml has `kpt_shape`.

    Args:
        source: a dataset folder, or its data.yaml.
        part: "train" or "val", the config section of the source.

    Raises:
        InputError: the dataset is missing or malformed; all errors in label files are reported at once.
    """
    layout = find_yolo(Path(source.annotations))
    if layout is None:
        raise InputError(
            f"{source.annotations}: is not a YOLO dataset: expected data.yaml, or folders images and labels with "
            f"classes.txt; to detect the format, set data.{part}.format=auto"
        )
    images, labels_of, are_all_images = _images(layout, source, part)
    if any(image.is_absolute() for image in images):  # some entries of data.yaml may be absolute
        images = [Path(os.path.abspath(image)) for image in images]
    image_folder = os.path.commonpath([image.parent for image in images]) or "."
    reader = _LabelReader(layout, source.annotations)
    files = [labels_of(image) for image in images]
    missing = [image for index, image in enumerate(images) if not reader.read(files[index], index)]
    if len(missing) == len(images):
        raise InputError(
            f"{source.annotations}: none of the {len(images)} images has a label file; expected for example "
            f"{files[0]} for {images[0]}"
        )
    findings = reader.findings
    findings.check()
    for image in missing:
        findings.add("note", "label_file_missing", NO_LABEL_FILE, os.path.relpath(image, layout.root))
    if are_all_images:
        for file in _without_image(files):
            findings.add("warning", "label_file_without_image", NO_IMAGE, os.path.relpath(file, layout.root))
    boxes = np.array(reader.boxes, dtype=np.float64).reshape(-1, 4)
    num_boxes = len(boxes)
    return Annotations(
        source=source.annotations,
        image_folder=image_folder,
        file_names=tuple(image.relative_to(image_folder).as_posix() for image in images),
        image_ids=None,
        sizes=np.zeros((len(images), 2), dtype=np.int64),
        image_index=np.array(reader.image_index, dtype=np.int64),
        boxes_xywh=boxes,
        areas=np.full(num_boxes, np.nan),
        category_index=np.array(reader.classes, dtype=np.int64),
        is_crowd=np.zeros(num_boxes, dtype=bool),
        entry="label line",
        entry_numbers=np.array(reader.lines, dtype=np.int64),
        category_names=layout.names,
        category_ids=None,
        is_relative=True,
        findings=findings.findings(),
    )


def _images(layout: YoloLayout, source: DataSource, part: str) -> tuple[list[Path], Callable[[Path], Path], bool]:
    """Return a split's images, a function from image to label file, and whether the split consists of whole folders."""
    labels_of: Callable[[Path], Path] = label_file
    if source.images is None:
        split = choose_split(layout.splits, split=source.split, part=part, source=source.annotations)
        entries: tuple[Path, ...] = layout.entries.get(split, ())
        images = [image for entry in entries for image in images_of_entry(entry, layout.root)]
    else:
        folder = Path(source.images)
        entries = (folder,)
        images = [folder / name for name in image_files(folder)]
        labels = next(
            place
            for place in (layout.root / "labels" / (source.split or part), layout.root / "labels", layout.root)
            if place.is_dir()
        )

        def labels_of(image: Path) -> Path:
            return labels / image.relative_to(folder).with_suffix(".txt")

    if not images:
        listed = ", ".join(map(str, entries)) or layout.root
        raise InputError(f"{source.annotations}: no images in {listed}; correct the folder, or set data.{part}.split")
    return images, labels_of, all(os.path.isdir(entry) for entry in entries)


def _without_image(expected: list[Path]) -> Iterator[Path]:
    """Yield files without an image in the folders of the expected label files."""
    known = set(expected)
    for folder in dict.fromkeys(file.parent for file in expected):
        if os.path.isdir(folder):
            names = sorted(name for name in os.listdir(folder) if name.endswith(".txt") and name not in NOT_LABELS)
            yield from (folder / name for name in names if folder / name not in known)


class _LabelReader:
    """Collect boxes from label files."""

    def __init__(self, layout: YoloLayout, source: str):
        self.boxes = array("d")  # left, top, width, height in fractions
        self.image_index, self.classes, self.lines = array("q"), array("q"), array("q")
        self.findings = FindingCounter(source)
        self._layout = layout
        self._unknown_class = UNKNOWN_CLASS.format(file=layout.names_file.name, number=len(layout.names))

    def read(self, file: Path, image: int) -> bool:
        """Add the boxes of an image; return False if its label file does not exist."""
        try:
            content = read_limited(file, max_bytes=MAX_BYTES)
            text = content.decode(encoding_of(content), "replace")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            self.findings.add("error", "label_file", NOT_READABLE, f"{self._shown(file)} ({error.strerror})")
            return True
        for number, line in enumerate(io.StringIO(text, newline=None), start=1):
            if len(line) > MAX_LINE:
                place = f"{self._shown(file)}:{number} (more than {MAX_LINE} characters)"
                self.findings.add("error", "label_file", NOT_READABLE, place)
            elif words := line.split():
                self._add(words, image, file, number)
        return True

    def _add(self, words: list[str], image: int, file: Path, number: int) -> None:
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = [np.nan]
        if problem := self._problem(values):
            found = " ".join(words)[:40]
            self.findings.add("error", "label_line", problem, f"{self._shown(file)}:{number} ({found!r})")
            return
        if len(values) <= 6 or self._layout.has_keypoints:
            x, y, w, h = values[1:5]
            self.boxes.extend((x - w / 2, y - h / 2, w, h))
            if len(values) == 6 and not self._layout.has_keypoints:
                self.findings.add("note", "label_confidence", HAS_CONFIDENCE)
        else:
            xs, ys = values[1::2], values[2::2]
            self.boxes.extend((min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)))
            self.findings.add("note", "label_polygon", IS_POLYGON)
        self.image_index.append(image)
        self.classes.append(int(values[0]))
        self.lines.append(number)

    def _problem(self, values: list[float]) -> str | None:
        """Describe the problem with a line; return None if it is correct."""
        if not all(map(math.isfinite, values)):
            return NOT_NUMBERS
        count = len(values)
        is_polygon = count >= 7 and count % 2 == 1
        if count not in (5, 6) and not is_polygon and not (self._layout.has_keypoints and count > 5):
            return WRONG_COUNT
        if not (values[0].is_integer() and 0 <= values[0] < len(self._layout.names)):
            return self._unknown_class
        last = 5 if count <= 6 or self._layout.has_keypoints else count
        if min(values[1:last]) < -OUTSIDE_TOLERANCE or max(values[1:last]) > 1 + OUTSIDE_TOLERANCE:
            return IN_PIXELS
        return None

    def _shown(self, file: Path) -> str:
        return os.path.relpath(file, self._layout.root)
