"""Write a dataset as a CSV file, one box per row."""

import csv
import io
from pathlib import Path

from retinanet.formats.corners import size_losses, to_corners
from retinanet.formats.csv.columns import EXPECTED
from retinanet.formats.csv.reader import BOX_FILE, CLASS_FILE
from retinanet.formats.dataset import Dataset
from retinanet.formats.numbers import exact_text
from retinanet.formats.writing import (
    Losses,
    area_losses,
    image_id_losses,
    image_names,
    occurring,
    write_new_files,
)


def write_csv(dataset: Dataset, folder: Path, *, split: str) -> Losses:
    """Write `SPLIT/annotations.csv` with DeepForest's header, and `SPLIT/classes.csv` with the order of the classes.

    File names are relative to the folder SPLIT. An image without objects has one row without a box.

    Returns:
        Counts of the information that the format cannot express.

    Raises:
        InputError: a file exists or cannot be written.
    """
    table, classes = io.StringIO(), io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(EXPECTED.split(","))
    names, corners = image_names(dataset), to_corners(dataset.boxes_xywh)
    for index, name in enumerate(names):
        rows = range(dataset.box_start[index], dataset.box_start[index + 1])
        objects = [row for row in rows if not dataset.is_crowd[row]]
        for row in objects:
            writer.writerow([name, *map(exact_text, corners[row].tolist()), dataset.class_names[dataset.labels[row]]])
        if not objects:
            writer.writerow([name, "", "", "", "", ""])
    csv.writer(classes, lineterminator="\n").writerows(zip(dataset.class_names, dataset.category_ids, strict=True))
    place = folder / split
    write_new_files({place / BOX_FILE: table.getvalue(), place / CLASS_FILE: classes.getvalue()})
    counts = {
        "crowd regions are not written": int(dataset.is_crowd.sum()),
        "images listed several times are merged": len(names) - len(set(names)),
    }
    return occurring(counts) | size_losses(dataset) | image_id_losses(dataset) | area_losses(dataset)
