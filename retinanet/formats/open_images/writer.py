"""Write a dataset in Open Images format."""

import csv
import io
from pathlib import Path

import numpy as np

from retinanet.formats.annotations import RELATIVE_DIGITS
from retinanet.formats.corners import to_corners, to_xywh
from retinanet.formats.dataset import Dataset
from retinanet.formats.open_images.reader import BOX_FILE, CLASS_FILE, HEADER
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

UNKNOWN = "-1"  # an attribute that was not checked


def write_open_images(dataset: Dataset, folder: Path, *, split: str) -> Losses:
    """Write `SPLIT-annotations-bbox.csv` and `class-descriptions-boxable.csv`, with class names as label names.

    Image files belong in the folder `SPLIT`.

    Returns:
        Counts of the information that the format cannot express.

    Raises:
        InputError: two images would have the same id, or a file exists or cannot be written.
    """
    names, rows_of = image_names(dataset), rows_of_files(image_names(dataset), dataset)
    sizes = np.repeat(np.tile(dataset.sizes[:, ::-1], 2), np.diff(dataset.box_start), axis=0)  # (M, 4)
    fractions = to_corners(dataset.boxes_xywh) / sizes
    table, classes = io.StringIO(), io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(HEADER)
    for stem, rows in rows_of.items():
        for row in rows.tolist():
            label, is_group = dataset.class_names[dataset.labels[row]], int(dataset.is_crowd[row])
            x1, y1, x2, y2 = map(repr, fractions[row].tolist())
            attributes = [UNKNOWN, UNKNOWN, is_group, UNKNOWN, UNKNOWN]
            writer.writerow([stem, "unknown", label, 1, x1, x2, y1, y2, *attributes])
    csv.writer(classes, lineterminator="\n").writerows(zip(dataset.class_names, dataset.class_names, strict=True))
    write_new_files({folder / BOX_FILE.format(split): table.getvalue()})
    replace_file(folder / CLASS_FILE, classes.getvalue())  # the same for all splits
    rounded = (np.round(to_xywh(fractions) * sizes, RELATIVE_DIGITS) != dataset.boxes_xywh).any(axis=1)
    return occurring(
        {
            "images without objects are not listed": int((np.diff(dataset.box_start) == 0).sum()),
            "images listed several times are merged": len(names) - len(rows_of),
            "image names lose their suffix, which other tools expect to be .jpg": sum(
                not name.endswith(".jpg") for name in names
            ),
            "boxes are rounded to a millionth of a pixel": int(rounded.sum()),
        }
        | image_id_losses(dataset)
        | category_id_losses(dataset)
        | area_losses(dataset)
    )
