"""Write a dataset in labelme format."""

import json
import os
from pathlib import Path

from retinanet.formats.corners import size_losses, to_corners
from retinanet.formats.dataset import Dataset
from retinanet.formats.labelme.reader import LABEL_FILE
from retinanet.formats.writing import (
    Losses,
    area_losses,
    category_id_losses,
    image_id_losses,
    image_names,
    occurring,
    rows_of_files,
    write_new_files,
)

VERSION = "5.5.0"  # labelme version whose format is written


def write_labelme(dataset: Dataset, folder: Path, *, split: str) -> Losses:
    """Write `SPLIT/NAME.json` for each image, and `SPLIT/labels.txt` with the order of the classes.

    Each image belongs beside its JSON file.

    Returns:
        Counts of the information that the format cannot express.

    Raises:
        InputError: two images would share a file, or a file exists or cannot be written.
    """
    names, place = image_names(dataset), folder / split
    index_of = {os.path.splitext(name)[0]: index for index, name in enumerate(names)}
    corners, rows_of = to_corners(dataset.boxes_xywh), rows_of_files(names, dataset)
    files = {place / LABEL_FILE: "".join(f"{name}\n" for name in dataset.class_names)}
    for stem, rows in rows_of.items():
        index = index_of[stem]
        height, width = dataset.sizes[index].tolist()
        shapes = [
            {
                "label": dataset.class_names[dataset.labels[row]],
                "points": corners[row].reshape(2, 2).tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "rectangle",
                "flags": {},
            }
            for row in rows[~dataset.is_crowd[rows]].tolist()
        ]
        document = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": names[index].rpartition("/")[2],
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        files[place / f"{stem}.json"] = json.dumps(document, indent=2)
    write_new_files(files)
    return occurring(
        {
            "crowd regions are not written": int(dataset.is_crowd.sum()),
            "images listed several times are merged": len(names) - len(rows_of),
            "images are read back in the order of their names": sum(map(str.__ne__, rows_of, sorted(rows_of))),
        }
        | size_losses(dataset)
        | image_id_losses(dataset)
        | category_id_losses(dataset)
        | area_losses(dataset)
    )
