"""Write a dataset in YOLO format."""

import os
from pathlib import Path

import numpy as np

from retinanet.config.yaml_loader import dump_yaml, read_yaml
from retinanet.errors import InputError
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

DIGITS = 6  # of pixels, to which the reader rounds


def write_yolo(dataset: Dataset, folder: Path, *, split: str) -> Losses:
    """Write `labels/SPLIT/NAME.txt` for each image, and `data.yaml`; images belong in `images/SPLIT`.

    The splits of a dataset are written one after the other, and share `data.yaml`.

    Returns:
        What the format cannot express, with counts.

    Raises:
        InputError: a file exists or cannot be written, `data.yaml` has other classes, or two images would share a file.
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
            "images listed several times are joined": len(names) - len(rows_of),
            "images are read in the order of their names": sum(
                name != expected for name, expected in zip(names, sorted(names), strict=True)
            ),
        }
        | image_id_losses(dataset)
        | area_losses(dataset)
        | category_id_losses(dataset)
    )


def _to_fractions(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Boxes clipped to their images: left, top, width and height in pixels; and centres and sizes in fractions."""
    sizes = _sizes(dataset)
    corners = np.concatenate([dataset.boxes_xywh[:, :2], dataset.boxes_xywh[:, :2] + dataset.boxes_xywh[:, 2:]], axis=1)
    inside = np.clip(corners, 0, np.tile(sizes, 2))
    is_inside = (inside == corners).all(axis=1, keepdims=True)
    clipped = np.concatenate([inside[:, :2], inside[:, 2:] - inside[:, :2]], axis=1)
    boxes = np.where(is_inside, dataset.boxes_xywh, clipped)
    return boxes, np.concatenate([(boxes[:, :2] + boxes[:, 2:] / 2) / sizes, boxes[:, 2:] / sizes], axis=1)


def _from_fractions(dataset: Dataset, fractions: np.ndarray) -> np.ndarray:
    """Boxes (M, 4) in pixels, as they are read."""
    left_top = fractions[:, :2] - fractions[:, 2:] / 2
    return np.round(np.concatenate([left_top, fractions[:, 2:]], axis=1) * np.tile(_sizes(dataset), 2), DIGITS)


def _sizes(dataset: Dataset) -> np.ndarray:
    """Width and height of the image of each box, (M, 2)."""
    return np.repeat(dataset.sizes, np.diff(dataset.box_start), axis=0)[:, ::-1].astype(np.float64)


def _data_yaml(file: Path, split: str, names: tuple[str, ...]) -> str:
    """Content of data.yaml with this split added to those already written."""
    values = read_yaml(file, as_text=True) if os.path.lexists(file) else {}
    key = usual_name(split)
    if key in values or values.get("names", list(names)) != list(names):
        found = f"the split {key}" if key in values else f"the classes {str(values['names'])[:80]}"
        raise InputError(f"{file}: has {found} already and is not changed; choose another folder")
    splits = {name: str(values[name]) for name in SPLITS if name in values} | {key: f"images/{split}"}
    if unknown := set(values) - {*SPLITS, "names"}:
        raise InputError(f"{file}: has other keys {sorted(unknown)[:5]} and is not changed; choose another folder")
    return dump_yaml(splits | {"names": list(names)})
