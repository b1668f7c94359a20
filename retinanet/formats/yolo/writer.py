"""Write a dataset in YOLO format."""

import os
from pathlib import Path

import numpy as np

from retinanet.config.yaml_loader import dump_yaml, read_yaml
from retinanet.errors import InputError
from retinanet.formats.annotations import RELATIVE_DIGITS
from retinanet.formats.corners import to_corners, to_xywh
from retinanet.formats.dataset import Dataset
from retinanet.formats.splits import SPLITS, usual_name
from retinanet.formats.writing import (
    Losses,
    area_losses,
    category_id_losses,
    image_id_losses,
    image_names,
    occurring,
    replace_file,
    rows_of_files,
    write_new_files,
)


def write_yolo(dataset: Dataset, folder: Path, *, split: str) -> Losses:
    """Write `labels/SPLIT/NAME.txt` for each image, and `data.yaml`; images belong in `images/SPLIT`.

    The splits of a dataset are written one after another and share `data.yaml`.

    Returns:
        Counts of the information that the format cannot express.

    Raises:
        InputError: a file exists or cannot be written, `data.yaml` lists other classes, or images would share a file.
    """
    if usual_name(split) not in SPLITS:
        raise InputError(f"{folder}: YOLO has no split {split!r}; use one of {', '.join(SPLITS)}")
    names = image_names(dataset)
    boxes, fractions = _to_fractions(dataset)
    contents = {}
    rows_of = rows_of_files(names, dataset)
    for stem, rows in rows_of.items():
        lines = [
            " ".join([str(dataset.labels[row]), *map(repr, fractions[row].tolist())])
            for row in rows.tolist()
            if not dataset.is_crowd[row]
        ]
        contents[folder / "labels" / split / f"{stem}.txt"] = "".join(f"{line}\n" for line in lines)
    data = _data_yaml(folder / "data.yaml", split, dataset.class_names)
    write_new_files(contents)
    replace_file(folder / "data.yaml", data)
    objects = ~dataset.is_crowd
    is_clipped = (boxes != dataset.boxes_xywh).any(axis=1)
    is_rounded = ~is_clipped & (_from_fractions(dataset, fractions) != boxes).any(axis=1)
    return occurring(
        {
            "crowd regions are not written": int((~objects).sum()),
            "boxes are clipped to their image": int((is_clipped & objects).sum()),
            "boxes are rounded to a millionth of a pixel": int((is_rounded & objects).sum()),
            "images listed several times are merged": len(names) - len(rows_of),
            "images are read back in the order of their names": sum(
                name != expected for name, expected in zip(names, sorted(names), strict=True)
            ),
        }
        | image_id_losses(dataset)
        | area_losses(dataset)
        | category_id_losses(dataset)
    )


def _to_fractions(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to their images; return (left, top, width, height) in pixels, and centres and sizes in fractions."""
    sizes = _sizes(dataset)
    corners = to_corners(dataset.boxes_xywh)
    inside = np.clip(corners, 0, np.tile(sizes, 2))
    is_inside = (inside == corners).all(axis=1, keepdims=True)
    clipped = to_xywh(inside)
    boxes = np.where(is_inside, dataset.boxes_xywh, clipped)
    return boxes, np.concatenate([(boxes[:, :2] + boxes[:, 2:] / 2) / sizes, boxes[:, 2:] / sizes], axis=1)


def _from_fractions(dataset: Dataset, fractions: np.ndarray) -> np.ndarray:
    """Convert fractions back to boxes in pixels, (M, 4), as the reader does."""
    left_top = fractions[:, :2] - fractions[:, 2:] / 2
    return np.round(np.concatenate([left_top, fractions[:, 2:]], axis=1) * np.tile(_sizes(dataset), 2), RELATIVE_DIGITS)


def _sizes(dataset: Dataset) -> np.ndarray:
    """Return width and height of each box's image, (M, 2)."""
    return np.repeat(dataset.sizes, np.diff(dataset.box_start), axis=0)[:, ::-1].astype(np.float64)


def _data_yaml(file: Path, split: str, names: tuple[str, ...]) -> str:
    """Return the content of data.yaml with this split added to those already written."""
    values = read_yaml(file, as_text=True) if os.path.lexists(file) else {}
    key = usual_name(split)
    if key in values or values.get("names", list(names)) != list(names):
        found = f"the split {key}" if key in values else f"the classes {str(values['names'])[:80]}"
        raise InputError(f"{file}: already has {found} and will not be changed; choose another folder")
    splits = {name: str(values[name]) for name in SPLITS if name in values} | {key: f"images/{split}"}
    if unknown := set(values) - {*SPLITS, "names"}:
        raise InputError(f"{file}: has other keys {sorted(unknown)[:5]} and will not be changed; choose another folder")
    return dump_yaml(splits | {"names": list(names)})
