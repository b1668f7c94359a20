"""Detect the annotation format of a file or folder, and the splits that a folder defines."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from retinanet.config import DataSource
from retinanet.config.data import Format
from retinanet.errors import InputError
from retinanet.formats.content_kind import csv_kind, json_kind
from retinanet.formats.findings import shortened
from retinanet.formats.splits import SPLITS, choose_split, matching_splits, splits_in, usual_name
from retinanet.formats.voc.layout import find_voc
from retinanet.formats.yolo.layout import find_yolo

TITLES: dict[Format, str] = {
    "coco": "COCO",
    "yolo": "YOLO",
    "voc": "Pascal VOC",
    "csv": "CSV",
    "labelme": "labelme",
    "open_images": "Open Images",
    "lvis": "LVIS",
}
FILES_IN_SPLIT = {  # annotation file names in the folder of a split; Roboflow's start with _
    ".json": ("_annotations.coco.json", "annotations.json", "labels.json"),
    ".csv": ("_annotations.csv", "annotations.csv"),
}
# Formats whose readers expect the annotation file of a split, not a folder.
FILE_PER_SPLIT = ("coco", "lvis", "csv", "open_images")
OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")  # COCO files next to instances_*.json
ARCHIVES = {b"PK\x03\x04": "a zip archive", b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7-Zip archive"}


class Detected(NamedTuple):
    """The annotation format and the splits found at a path."""

    format: Format
    files: dict[str | None, Path]  # the annotation file or folder of each split; None if there are no splits
    description: str  # for example "YOLO, 3 classes from data.yaml"

    @property
    def splits(self) -> list[str]:
        """The splits of the folder, under the names it uses."""
        return [split for split in self.files if split is not None]


class OwnData(NamedTuple):
    """The sources of a training run, found at one path."""

    train: DataSource
    val: DataSource | None  # None: no validation split
    description: str


def detect(path: str, *, key: str = "data.train") -> Detected:
    """Detect the annotation format of a file or folder.

    Args:
        key: the config key of the source, for messages.

    Raises:
        InputError: the path does not exist, or its format is unknown or ambiguous.
    """
    place = Path(path)
    if not os.path.exists(path):
        raise InputError(f"{path}: does not exist; set {key} to an annotation file or a dataset folder")
    if not os.path.isdir(path):
        return _detect_file(place, key)
    found = list(_found_in(place))
    if len(found) == 1:
        if isinstance(found[0], InputError):
            raise found[0]
        return found[0]
    if not found:
        raise InputError(
            f"{path}: no annotations found. Expected COCO (annotations/*.json, or SPLIT/_annotations.coco.json), YOLO "
            "(data.yaml, or images and labels with classes.txt), Pascal VOC (Annotations/*.xml, or XML files beside "
            "images), labelme (JSON files beside images), or a CSV file; set "
            f"{key}.annotations to the annotation file or folder"
        )
    names = [item.description for item in found if isinstance(item, Detected)]
    unclear = [str(item) for item in found if isinstance(item, InputError)]
    raise InputError(
        f"{path}: the format is ambiguous; it could be {' or '.join(names + unclear)}. Set {key}.format to one of "
        f"{', '.join(item.format for item in found if isinstance(item, Detected))}"
    )


def resolve(source: DataSource, part: str) -> tuple[DataSource, str]:
    """Fill in the format of a source and, if each split has its own file, that file; also return a description.

    Args:
        part: "train" or "val", the config section of the source.

    Raises:
        InputError: the format is unknown or ambiguous, or the split does not exist.
    """
    key = f"data.{part}"
    path = Path(source.annotations)
    found = detect(source.annotations, key=key) if source.format == "auto" else _find(source.format, path)
    if found is None:  # the format's reader reports what is missing
        return source, TITLES[source.format]
    update: dict[str, str | None] = {"format": found.format}
    text = found.description
    if found.splits or (source.split is not None and os.path.isdir(path)):
        split = choose_split(found.splits, split=source.split, part=part, source=source.annotations)
        update["split"] = split
        text += f", split {split}"
    if found.format in FILE_PER_SPLIT and os.path.isdir(path):
        file = found.files[update.get("split")]
        update["annotations"] = str(file)
        text = f"{TITLES[found.format]}, {file.relative_to(path)}"
    return source.model_copy(update=update), text


def splits_of(source: DataSource) -> list[str]:
    """Return the split names that a source defines; an empty list if it is a file or has no splits.

    Raises:
        InputError: the format is unknown or ambiguous.
    """
    found = detect(source.annotations) if source.format == "auto" else _find(source.format, Path(source.annotations))
    return found.splits if found else []


def own_data(path: str, format: Format = "auto") -> OwnData:
    """Find the training split and, if there is one, the validation split in a file or folder.

    A test split is never used. Without splits, all images are used for training.

    Args:
        format: the format to use if the path matches several.

    Raises:
        InputError: the format is unknown or ambiguous, or there are splits but none for training.
    """
    found = detect(path) if format == "auto" else _find(format, Path(path))
    if found is None:
        raise InputError(f"{path}: no {TITLES[format]} annotations found; set data.train.format to another format")
    train = choose_split(found.splits, split=None, part="train", source=path)
    val = (
        choose_split(found.splits, split=None, part="val", source=path)
        if matching_splits(found.splits, "val")
        else None
    )
    return OwnData(_source(found, train, path), None if val is None else _source(found, val, path), found.description)


def _source(found: Detected, split: str | None, path: str) -> DataSource:
    file = str(found.files[split]) if found.format in FILE_PER_SPLIT else path
    return DataSource(annotations=file, format=found.format, split=split)


def _found_in(folder: Path) -> Iterator[Detected | InputError]:
    """Yield each format found in a folder, or the error that its detection raised."""
    for kind in ("coco", "yolo", "voc", "labelme", "csv", "open_images", "lvis"):
        try:
            found = _find(kind, folder)
        except InputError as error:
            yield error
        else:
            if found is not None:
                yield found


def _find(kind: Format, path: Path) -> Detected | None:
    """Find a dataset of one format in a folder; return None if there is none."""
    if not path.is_dir() and kind != "yolo":
        return None
    match kind:
        case "yolo":
            layout = find_yolo(path)
            if layout is None:
                return None
            count = f"{len(layout.names)} class{'es' if len(layout.names) > 1 else ''}"
            text = f"YOLO, {count} from {os.path.relpath(layout.names_file, layout.root)}"
            return Detected("yolo", {split: path for split in layout.entries}, text)
        case "voc":
            voc = find_voc(path)
            if voc is None:
                return None
            text = f"Pascal VOC, XML files in {os.path.relpath(voc.annotations, path)}"
            return Detected("voc", {split: path for split in voc.splits or (None,)}, text.removesuffix(" in ."))
        case "labelme":
            return _find_labelme(path)
        case _:
            files = _files_by_split(path, kind)
            if not files:
                return None
            listed = [file.relative_to(path).as_posix() for file in files.values()]
            return Detected(kind, files, f"{TITLES[kind]}, {', '.join(shortened(listed))}")


def _find_labelme(path: Path) -> Detected | None:
    """Find labelme files in a folder or in its split folders."""
    names = os.listdir(path)
    splits = [
        split
        for split in splits_in(name for name in names if (path / name).is_dir())
        if _first_json(path / split) == "labelme"
    ]
    if splits or _first_json(path) == "labelme":
        return Detected("labelme", {split: path for split in splits or (None,)}, "labelme, JSON files beside images")
    return None


def _first_json(folder: Path) -> Format | None:
    """Return the format of the alphabetically first JSON file in a folder."""
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(".json"))
    return json_kind(folder / names[0]) if names else None


def _files_by_split(folder: Path, kind: Format) -> dict[str | None, Path]:
    """Find the annotation file of each split, for a format with one file per split.

    Raises:
        InputError: there are several files whose names do not identify their splits.
    """
    suffix, kind_of = (".json", json_kind) if kind in ("coco", "lvis") else (".csv", csv_kind)
    for place in (folder / "annotations", folder):
        if not place.is_dir():
            continue
        files = sorted(file for file in place.iterdir() if file.suffix.lower() == suffix)
        files = [file for file in files if kind_of(file) == kind and not file.stem.startswith(OTHER_TASKS)]
        splits = splits_in(split for split in map(_split_of, files) if split)
        files = [file for file in files if not splits or _split_of(file) is not None]
        if len(files) > max(1, len(set(splits))):
            raise InputError(
                f"{folder}: has several {TITLES[kind]} files, {[file.name for file in files[:5]]}, whose names do not "
                "identify their splits; set annotations to one of them"
            )
        if files:
            return {_split_of(file): file for file in sorted(files, key=lambda file: _order(_split_of(file)))}
    found: dict[str | None, Path] = {}
    for split in splits_in(child.name for child in folder.iterdir() if child.is_dir()):
        for file in (folder / split / name for name in FILES_IN_SPLIT[suffix]):
            if file.is_file() and kind_of(file) == kind:
                found.setdefault(split, file)
    return found


def _order(split: str | None) -> int:
    return SPLITS.index(usual_name(split)) if split else -1


def _split_of(file: Path) -> str | None:
    """Return the split named in a file name: `train2017` in instances_train2017.json, `val` in val-annotations.json."""
    words = file.stem.replace("-", "_").split("_")
    return next((word for word in words if usual_name(word) in SPLITS), None)


def _detect_file(file: Path, key: str) -> Detected:
    with open(file, "rb") as opened:
        start = opened.read(4)
    if start in ARCHIVES:
        raise InputError(f"{file}: is {ARCHIVES[start]}; unpack it and set {key} to the folder")
    kind: Format | None = None
    match file.suffix.lower():
        case ".yaml" | ".yml":
            found = _find("yolo", file)
            assert found is not None
            return found
        case ".csv" | ".tsv":
            kind = csv_kind(file) or "csv"
        case ".xml":
            raise InputError(f"{file}: is the annotation of one image in Pascal VOC format; set {key} to its folder")
        case ".json" | ".gz":
            kind = json_kind(file) or "coco"  # its reader recognises other kinds of JSON
        case _:
            kind = json_kind(file) or csv_kind(file)
    if kind == "labelme":
        kind = "coco"  # one of many files of a dataset; the reader explains what to do
    if kind is None:
        raise InputError(
            f"{file}: is not an annotation file; expected COCO (.json), YOLO (data.yaml), CSV, or a dataset folder"
        )
    return Detected(kind, {None: file}, f"{TITLES[kind]}, {file.name}")
