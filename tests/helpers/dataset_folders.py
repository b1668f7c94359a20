"""Dataset folders like those that annotation tools write, and generated datasets."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from retinanet.formats.dataset import Dataset, start_of_each

WIDTH, HEIGHT = 40, 20  # size of all images


def write_image(path: Path, *, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Write an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def write_files(folder: Path, contents: dict[str, str | bytes | None]) -> Path:
    """Write files, given by path in the folder, and return the folder. A content of None writes an image."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            write_image(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def voc_xml(*objects: tuple[str, float, float, float, float], filename: str = "", difficult: int = 0) -> str:
    """A Pascal VOC annotation; each object is a name and xmin, ymin, xmax, ymax."""
    items = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{size}{items}</annotation>"


def place_images(dataset: Dataset, folder: Path) -> None:
    """Write the images of a dataset into a folder, under their own names."""
    for path, (height, width) in zip(dataset.paths, dataset.sizes.tolist(), strict=True):
        write_image(folder / Path(path).name, width=width, height=height)


def differences(one: Dataset, other: Dataset, *, ignore: tuple[str, ...] = ("paths",)) -> list[str]:
    """Names of the fields in which two datasets are not bit-identical."""
    return [
        field.name
        for field in dataclasses.fields(Dataset)
        if field.name not in ignore and not _is_same(getattr(one, field.name), getattr(other, field.name))
    ]


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Datasets of up to three images and three classes, with fractional boxes, crowd regions, areas, and any ids."""
    names = draw(st.lists(st.sampled_from(["a b", "ä", "x.y", "B", "c"]), min_size=1, max_size=3, unique=True))
    class_names = tuple(
        draw(st.lists(st.sampled_from(["cat", "no", "1.0", "<&>", "Ö k"]), min_size=1, max_size=3, unique=True))
    )
    counts = [draw(st.integers(0, 3)) for _ in names]
    num_boxes = sum(counts)
    is_whole = draw(st.booleans())
    side = st.integers(1, 10) if is_whole else st.floats(1, 10, width=32)
    boxes = [[draw(side), draw(side), draw(side), draw(side)] for _ in range(num_boxes)]
    boxes_xywh = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    areas = boxes_xywh[:, 2] * boxes_xywh[:, 3] * draw(st.sampled_from([1.0, 0.5]))
    first_id = draw(st.sampled_from([1, 7]))
    return Dataset(
        paths=tuple(f"/images/{name}.png" for name in names),
        image_ids=tuple(itertools.islice(itertools.count(first_id), len(names))),
        sizes=np.array([[HEIGHT, WIDTH]] * len(names), dtype=np.int64),
        box_start=start_of_each(np.array(counts, dtype=np.int64)),
        boxes_xywh=boxes_xywh,
        areas=areas,
        labels=np.array([draw(st.integers(0, len(class_names) - 1)) for _ in range(num_boxes)], dtype=np.int64),
        is_crowd=np.array([draw(st.booleans()) for _ in range(num_boxes)], dtype=bool),
        class_names=class_names,
        category_ids=tuple(range(first_id, first_id + len(class_names))),
    )


def dataset_of(*paths: str, counts: tuple[int, ...] | None = None, **fields: object) -> Dataset:
    """A dataset of images with `counts` boxes each, one by default: row r has left edge r, label 0, size 5 x 4."""
    counts = counts or (1,) * len(paths)
    num_boxes = sum(counts)
    boxes_xywh = np.array([[row, 1, 5, 4] for row in range(num_boxes)], dtype=np.float64).reshape(-1, 4)
    values: dict[str, object] = {
        "paths": paths,
        "image_ids": tuple(range(1, len(paths) + 1)),
        "sizes": np.array([[HEIGHT, WIDTH]] * len(paths), dtype=np.int64),
        "box_start": start_of_each(np.array(counts, dtype=np.int64)),
        "boxes_xywh": boxes_xywh,
        "areas": np.full(num_boxes, 20.0),
        "labels": np.zeros(num_boxes, dtype=np.int64),
        "is_crowd": np.zeros(num_boxes, dtype=bool),
        "class_names": ("cat",),
        "category_ids": (1,),
    }
    return Dataset(**(values | fields))
