"""Find the XML files of a Pascal VOC dataset and its splits, in the layouts of common tools."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from retinanet.errors import InputError
from retinanet.formats.image_paths.listing import files_in
from retinanet.formats.splits import splits_in
from retinanet.formats.text_files.lines import read_lines

ANNOTATION_FOLDERS = ("Annotations", "annotations", "xmls")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
LIST_FOLDERS = ("ImageSets/Main", "ImageSets")
SECOND_COLUMN = re.compile(r"\s+[-+]?[01]$")
NAME_FILES = ("classes.txt", "labels.txt")


@dataclass(frozen=True, kw_only=True)
class VocLayout:
    """Locations of the annotations, images and splits of a Pascal VOC dataset.

    Attributes:
        annotations: the folder with XML files, possibly in subfolders.
        images: the image folder.
        splits: by split name, a list file or a folder in `annotations`.
        names_file: class names, one per line; None if the dataset has no such file.
    """

    annotations: Path
    images: Path
    splits: dict[str, Path]
    names_file: Path | None


def find_voc(path: Path) -> VocLayout | None:
    """Find a Pascal VOC dataset in a folder; return None if there is none."""
    if not path.is_dir():
        return None
    if path.name in ANNOTATION_FOLDERS and any((path.parent / name).is_dir() for name in IMAGE_FOLDERS):
        path = path.parent
    names_file = next((path / name for name in NAME_FILES if (path / name).is_file()), None)
    for annotations in (path / name for name in ANNOTATION_FOLDERS):
        if annotations.is_dir() and _has_xml(annotations):
            images = next((path / name for name in IMAGE_FOLDERS if (path / name).is_dir()), path)
            splits = _lists(path) or _folders(annotations)
            return VocLayout(annotations=annotations, images=images, splits=splits, names_file=names_file)
    folders = _folders(path)
    if folders or any(name.lower().endswith(".xml") for name in os.listdir(path)):
        return VocLayout(annotations=path, images=path, splits=_lists(path) or folders, names_file=names_file)
    return None


def xml_files(layout: VocLayout, split: str | None) -> list[str]:
    """List the XML files of a split, relative to the annotation folder, in the order of its list or sorted by name.

    Raises:
        InputError: the list cannot be read, or an entry has no XML file.
    """
    available = sorted(name for name in files_in(layout.annotations) if name.lower().endswith(".xml"))
    if split is None:
        return available
    place = layout.splits[split]
    if place.is_dir():
        return [name for name in available if name.startswith(f"{split}/")]
    by_stem = {os.path.splitext(name)[0]: name for name in available}
    listed = [line for line in read_lines(place) if line]
    # Some tools list image files. Lists for one class have a second column, but names may also contain spaces.
    stems = [
        next((stem for stem in (name, os.path.splitext(name)[0], SECOND_COLUMN.sub("", name)) if stem in by_stem), None)
        for name in listed
    ]
    missing = [name for name, stem in zip(listed, stems, strict=True) if stem is None]
    if missing:
        raise InputError(
            f"{place}: {len(missing)} of {len(listed)} entries have no XML file in {layout.annotations}, first "
            f"{[name[:80] for name in missing[:5]]}; remove these lines or restore the files"
        )
    return [by_stem[stem] for stem in stems if stem is not None]


def _lists(folder: Path) -> dict[str, Path]:
    """Return the list file of each split."""
    for lists in (folder / name for name in LIST_FOLDERS):
        if lists.is_dir():
            files = {file.stem: file for file in sorted(lists.glob("*.txt"))}
            known = splits_in(files)
            # The folder also contains per-class lists such as cat_train.txt.
            return {name: files[name] for name in [*known, *(["trainval"] if "trainval" in files else [])]}
    return {}


def _folders(annotations: Path) -> dict[str, Path]:
    """Return subfolders of the annotation folder that are named like splits."""
    children = {child.name: child for child in annotations.iterdir() if child.is_dir()}
    return {name: children[name] for name in splits_in(children) if _has_xml(children[name])}


def _has_xml(folder: Path) -> bool:
    """Return whether a folder or its subfolders contain an XML file."""
    return any(name.lower().endswith(".xml") for name in files_in(folder))
