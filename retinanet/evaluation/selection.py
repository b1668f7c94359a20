"""Parts of a dataset to evaluate: some classes, some images, or objects of one size."""

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import torch

from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset, start_of_each
from retinanet.formats.text_files.lines import read_lines
from retinanet.structures import Detections

# COCO's size classes by area, in square pixels, inclusive at both ends.
SIZES: dict[str, tuple[float, float]] = {
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
ALL_SIZES = (0.0, 1e10)


def size_range(name: str | None) -> tuple[float, float]:
    """Smallest and largest area of the objects in a size class; of all objects without a name."""
    return ALL_SIZES if name is None else SIZES[name]


def select_classes(dataset: Dataset, class_names: Sequence[str]) -> Dataset:
    """The dataset with only the given classes, in the given order; all images are kept.

    Raises:
        InputError: the dataset has no such class.
    """
    label_of = _new_labels(dataset, class_names)
    labels = label_of[dataset.labels]
    kept = labels >= 0
    image_index = np.repeat(np.arange(len(dataset)), np.diff(dataset.box_start))
    federated = None
    if dataset.federated is not None:
        federated = dataset.federated.relabel(label_of, np.stack([image_index, dataset.labels], axis=1))
    return replace(
        dataset,
        box_start=start_of_each(np.bincount(image_index[kept], minlength=len(dataset))),
        boxes_xywh=dataset.boxes_xywh[kept],
        areas=dataset.areas[kept],
        labels=labels[kept],
        is_crowd=dataset.is_crowd[kept],
        class_names=tuple(class_names),
        category_ids=tuple(dataset.category_ids[dataset.class_names.index(name)] for name in class_names),
        federated=federated,
    )


def select_detections(
    detections: Mapping[int, Detections], dataset: Dataset, class_names: Sequence[str]
) -> dict[int, Detections]:
    """The detections of the given classes, with the labels that `select_classes(dataset, class_names)` gives them."""
    label_of = torch.from_numpy(_new_labels(dataset, class_names))
    selected = {}
    for index, found in detections.items():
        labels = label_of[found.labels]
        kept = labels >= 0
        selected[index] = Detections(found.boxes[kept], found.scores[kept], labels[kept])
    return selected


def select_images(dataset: Dataset, images: str) -> np.ndarray:
    """Indices of the chosen images of a dataset, in its order.

    Args:
        images: a text file with one image per line, or a pattern such as `night_*.jpg`. Both are compared with the file
            name and the path of each image.

    Raises:
        InputError: no image is chosen, or the file lists an image that the dataset lacks.
    """
    patterns = [line for line in read_lines(Path(images)) if line] if Path(images).is_file() else [images]
    names = [(PurePath(path).name, PurePath(path).as_posix()) for path in dataset.paths]
    known = {form for forms in names for form in forms}
    # The name of an image may contain wildcard characters.
    literal = {pattern for pattern in patterns if pattern in known or not any(sign in pattern for sign in "*?[")}
    globs = [pattern for pattern in patterns if pattern not in literal]
    chosen = [
        index
        for index, forms in enumerate(names)
        if not literal.isdisjoint(forms) or any(fnmatch.fnmatchcase(form, glob) for form in forms for glob in globs)
    ]
    missing = literal - known
    if missing or not chosen:
        lacking = f"there is no image {sorted(missing)[0]!r}" if missing else f"no image matches {images!r}"
        raise InputError(
            f"--images: {lacking}; the dataset has {len(dataset)} images, such as {names[0][0]!r}; give a pattern, or "
            "a text file with one name per line"
        )
    return np.array(chosen, dtype=np.int64)


def _new_labels(dataset: Dataset, class_names: Sequence[str]) -> np.ndarray:
    """The new label of each class of a dataset, (K,) int64; -1 if it is not chosen."""
    label_of = np.full(len(dataset.class_names), -1, dtype=np.int64)
    for label, name in enumerate(class_names):
        if name not in dataset.class_names:
            near = difflib.get_close_matches(name, dataset.class_names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"the classes are {list(dataset.class_names[:10])}"
            raise InputError(f"--classes: there is no class {name!r}; {hint}")
        label_of[dataset.class_names.index(name)] = label
    return label_of
