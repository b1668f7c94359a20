"""Read labelme annotations: one JSON file per image.

Every closed shape becomes its bounding box. `imageData`, an embedded copy of the image, is ignored, and so are `flags`
and `group_id`. labelme writes no file for an unlabelled image, so images without a JSON file are skipped. An image
without objects has a file without shapes.
"""

import os
import re
from pathlib import Path

import numpy as np

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.corners import to_xywh
from retinanet.formats.findings import Finding, FindingCounter
from retinanet.formats.image_paths.listing import is_image_name, path_inside
from retinanet.formats.labelme.file import LabelmeFile, OtherFile, read_labelme_file
from retinanet.formats.short_repr import short
from retinanet.formats.text_files.lines import read_names

LABEL_FILE = "labels.txt"
PLACEHOLDERS = ("__ignore__", "_background_")  # the first lines of labels.txt for labelme's exporters
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:")


def read_labelme(source: DataSource) -> Annotations:
    """Read a folder of labelme files and its subfolders, or only the subfolder of `source.split`.

    Classes are ordered as in `labels.txt` if it exists, otherwise by name. Images are ordered by the paths of their
    JSON files.

    Raises:
        InputError: a file is malformed; the message lists the errors of all files.
    """
    root = Path(source.annotations)
    place = root / source.split if source.split else root
    content = _Content(source, root, place)
    for file in sorted(place.rglob("*.json")):
        content.add(file)
    listed = _read_labels(place, root)
    for label, where in content.labels.items():
        if listed is not None and label not in listed:
            message = f"{{count}} label(s) are not in {LABEL_FILE}; add them to that file or correct their names"
            content.errors.add("error", "label_unknown", message, f"{where} ({short(label)})")
    content.errors.check()
    if not content.names:
        raise InputError(f"{place}: has no labelme files; expected one JSON file per image")
    names = tuple(sorted(content.labels) if listed is None else listed)
    if not names:
        raise InputError(f"{place}: no labelme file has a closed shape; expected at least one object")
    index_of = {name: index for index, name in enumerate(names)}
    corners = np.array(content.corners, dtype=np.float64).reshape(-1, 4)
    return Annotations(
        source=str(place),
        image_folder=content.image_folder,
        file_names=tuple(content.names),
        image_ids=None,
        sizes=np.array(content.sizes, dtype=np.int64).reshape(-1, 2),
        image_index=np.array(content.image_index, dtype=np.int64),
        boxes_xywh=to_xywh(corners),
        areas=np.full(len(corners), np.nan),
        category_index=np.array([index_of[label] for label in content.box_labels], dtype=np.int64),
        is_crowd=np.zeros(len(corners), dtype=bool),
        entry="shape",
        entry_numbers=np.array(content.numbers, dtype=np.int64),
        category_names=names,
        category_ids=None,
        findings=content.findings(),
    )


class _Content:
    """The content of the files read so far."""

    def __init__(self, source: DataSource, root: Path, place: Path):
        self.image_folder = source.images or str(root)
        self._images_are_elsewhere = source.images is not None
        self._place = place
        self._other_files = self._shapes_without_area = 0
        self.errors = FindingCounter(str(place))
        self.names: dict[str, str] = {}  # by image: its JSON file
        self.sizes: list[tuple[int, int]] = []
        self.labels: dict[str, str] = {}  # by label: the first file that uses it
        self.image_index: list[int] = []
        self.corners: list[tuple[float, float, float, float]] = []
        self.box_labels: list[str] = []
        self.numbers: list[int] = []

    def add(self, file: Path) -> None:
        where = file.relative_to(self._place).as_posix()
        match read_labelme_file(file, where, self.errors):
            case OtherFile():
                self._other_files += 1
            case LabelmeFile() as read:
                self._add(read, file, where)

    def _add(self, read: LabelmeFile, file: Path, where: str) -> None:
        name = self._image_name(file, read.image_path)
        if name is None:
            message = (
                f"{{count}} file(s) have an imagePath outside {self.image_folder}; set data.*.images to the folder of "
                "the images"
            )
            self.errors.add("error", "image_outside", message, f"{where} ({short(read.image_path)})")
            return
        if name in self.names:
            message = "{count} file(s) describe the same image as another file; remove one of them"
            found = f"{where} ({short(name)}, also in {self.names[name]})"
            self.errors.add("error", "image_twice", message, found)
            return
        for shape in read.shapes:
            self.labels.setdefault(shape.label, where)
            self.image_index.append(len(self.names))
            self.corners.append(shape.corners)
            self.box_labels.append(shape.label)
            self.numbers.append(shape.number)
        self.names[name] = where
        self.sizes.append(read.size)
        self._shapes_without_area += read.num_without_area

    def _image_name(self, file: Path, image: str) -> str | None:
        """Return the path of an image relative to the image folder; None if it is outside."""
        image = image.replace("\\", "/")
        if not WINDOWS_DRIVE.match(image):
            for base in (self.image_folder, str(self._place)) if self._images_are_elsewhere else (self.image_folder,):
                inside = path_inside(file.parent / image, base)
                if inside not in (None, "."):
                    return inside
        # The config sets the image folder: the paths in the files may be from another machine.
        name = image.rpartition("/")[2]
        return name if self._images_are_elsewhere and name not in ("", ".", "..") else None

    def findings(self) -> tuple[Finding, ...]:
        """Report skipped files and shapes, one warning per kind."""
        seen = {os.path.normpath(os.path.join(self.image_folder, name)) for name in self.names}
        folders = [folder for folder in {os.path.dirname(path) for path in seen} if os.path.isdir(folder)]
        files = {os.path.join(folder, name) for folder in folders for name in os.listdir(folder)}
        unlabelled = sum(map(is_image_name, files - seen))
        warnings = (
            (
                unlabelled,
                "images_without_annotation",
                "image(s) without a JSON file skipped: they are unlabelled; save images without objects in labelme too",
            ),
            (self._shapes_without_area, "shapes_without_area", "point(s) and line(s) skipped: they have no area"),
            (
                self._other_files,
                "other_files",
                "JSON file(s) without imagePath and shapes skipped: they are not labelme files",
            ),
        )
        return tuple(
            Finding("warning", kind, str(self._place), f"{count} {what}") for count, kind, what in warnings if count
        )


def _read_labels(*folders: Path) -> list[str] | None:
    """Read the classes in `labels.txt`, in order, from the first folder that has it; None if none has."""
    for file in (folder / LABEL_FILE for folder in folders):
        if file.is_file():
            return [name for name in read_names(file) if name not in PLACEHOLDERS]
    return None
