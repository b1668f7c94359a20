"""Write a dataset in Pascal VOC format."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from retinanet.errors import InputError
from retinanet.formats.corners import size_losses
from retinanet.formats.dataset import Dataset
from retinanet.formats.numbers import exact_text
from retinanet.formats.text_files.lines import read_lines
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

NOT_IN_XML = re.compile("[\x00-\x1f\ud800-\udfff\ufffe\uffff]")


def write_voc(dataset: Dataset, folder: Path, *, split: str, subfolder: str = "") -> Losses:
    """Write `Annotations/NAME.xml` for each image, `ImageSets/Main/SPLIT.txt` and `labels.txt`.

    Images belong in `JPEGImages`. The splits of a dataset are written one after another and share `labels.txt`, which
    lists the class names in order. Crowd regions become objects marked as difficult.

    Args:
        subfolder: a folder in `Annotations` and `JPEGImages`, for splits that have images with the same name.

    Returns:
        Counts of the information that the format cannot express.

    Raises:
        InputError: a file exists or cannot be written, `labels.txt` lists other classes, two images would share a file,
            or XML cannot express a name.
    """
    names = [os.path.join(subfolder, name).replace(os.sep, "/") for name in image_names(dataset)]
    for name in (*names, *dataset.class_names):
        if NOT_IN_XML.search(name):
            raise InputError(f"{name!r}: contains characters that XML cannot express; change the name")
    sizes = dict(zip((os.path.splitext(name)[0] for name in names), dataset.sizes.tolist(), strict=True))
    file_of = {os.path.splitext(name)[0]: name for name in names}
    rows_of = rows_of_files(names, dataset)
    contents = {
        folder / "Annotations" / f"{stem}.xml": "\n".join(_xml(dataset, file_of[stem], sizes[stem], rows)) + "\n"
        for stem, rows in rows_of.items()
    }
    contents[folder / "ImageSets" / "Main" / f"{split}.txt"] = "".join(f"{stem}\n" for stem in rows_of)
    labels = folder / "labels.txt"
    if os.path.lexists(labels) and read_lines(labels) != list(dataset.class_names):
        raise InputError(f"{labels}: lists other classes and will not be changed; choose another folder")
    write_new_files(contents)
    replace_file(labels, "".join(f"{name}\n" for name in dataset.class_names))
    return occurring(
        {
            "crowd regions are written as difficult objects": int(dataset.is_crowd.sum()),
            "images listed several times are merged": len(names) - len(rows_of),
        }
        | size_losses(dataset, with_crowd=True)
        | image_id_losses(dataset)
        | area_losses(dataset)
        | category_id_losses(dataset)
    )


def _xml(dataset: Dataset, name: str, size: tuple[int, int], rows: np.ndarray) -> Iterator[str]:
    """Yield the lines of one image's file."""
    height, width = size
    yield "<annotation>"
    yield f"  <filename>{escape(os.path.basename(name))}</filename>"
    yield f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    for row in rows.tolist():
        x, y, w, h = dataset.boxes_xywh[row].tolist()
        corners = {"xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h}
        box = "".join(f"<{corner}>{exact_text(value)}</{corner}>" for corner, value in corners.items())
        yield "  <object>"
        yield f"    <name>{escape(dataset.class_names[dataset.labels[row]])}</name>"
        yield f"    <difficult>{int(dataset.is_crowd[row])}</difficult>"
        yield f"    <bndbox>{box}</bndbox>"
        yield "  </object>"
    yield "</annotation>"
