"""Generated datasets on a few small images, for round trips through annotation files."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from retinanet.formats.dataset import Dataset, start_of_each

IMAGES = {  # width and height by name
    "a.jpg": (64, 48), "b 1.png": (7, 9), "c#2.JPG": (33, 21), "Bild_ä.jpg": (50, 50), "sub/a.png": (20, 80),
    "sub/deeper/e.f.jpg": (640, 11),
}  # fmt: skip
NAMES = ("cat", "Cat", "big, dog", 'say "x"', "方块", "1", "null", "no", "it's; <b>&amp;</b>", "a b")


def write_images(folder: Path) -> Path:
    """Write the images into a folder."""
    for name, size in IMAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / name)
    return folder


@st.composite
def datasets(draw: st.DrawFn, folder: Path) -> Dataset:
    """Datasets on some of the images in a folder, with at least one object."""
    names = draw(st.lists(st.sampled_from(list(IMAGES)), min_size=1, unique=True))
    class_names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    boxes, counts = [], []
    for name in names:
        minimum = 1 if name == names[0] else 0
        some = draw(st.lists(_box(*IMAGES[name]), min_size=minimum, max_size=4))
        boxes += some
        counts.append(len(some))
    boxes_xywh = np.array(boxes, dtype=np.float64)
    areas = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    labels = draw(st.lists(st.integers(0, len(class_names) - 1), min_size=len(boxes), max_size=len(boxes)))
    is_crowd = np.array([False, *draw(st.lists(st.booleans(), min_size=len(boxes) - 1, max_size=len(boxes) - 1))])
    if draw(st.booleans()):
        is_crowd[:] = False
    numbers = range(1, len(names) + 1)
    category_ids = draw(st.permutations(range(1, len(class_names) + 1)) | st.just(list(range(1, len(class_names) + 1))))
    return Dataset(
        paths=tuple(str(folder / name) for name in names),
        image_ids=tuple(draw(st.sampled_from([numbers, [f"id{n}" for n in numbers], [7 * n for n in numbers]]))),
        sizes=np.array([IMAGES[name][::-1] for name in names], dtype=np.int64),
        box_start=start_of_each(np.array(counts)),
        boxes_xywh=boxes_xywh,
        areas=areas / 2 if draw(st.booleans()) else areas,
        labels=np.array(labels, dtype=np.int64),
        is_crowd=is_crowd,
        class_names=tuple(class_names),
        category_ids=tuple(sorted(category_ids)),  # readers order classes by id
    )


@st.composite
def _box(draw: st.DrawFn, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, width and height of a box in an image, or up to half a pixel outside."""
    (x, w), (y, h) = draw(_side(width)), draw(_side(height))
    return x, y, w, h


@st.composite
def _side(draw: st.DrawFn, length: int) -> tuple[float, float]:
    if draw(st.booleans()):
        start = draw(st.integers(0, length - 1))
        return float(start), float(draw(st.integers(1, length - start)))
    start = draw(st.floats(-0.5, length - 1))
    return start, draw(st.floats(1, length + 0.25 - start))
