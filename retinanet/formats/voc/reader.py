"""Read datasets in Pascal VOC format: one XML file of boxes per image."""

import os
import posixpath
import xml.etree.ElementTree as ET
from array import array
from pathlib import Path

import numpy as np

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.corners import to_xywh
from retinanet.formats.findings import FindingCounter
from retinanet.formats.image_paths.listing import image_files
from retinanet.formats.numbers import to_number
from retinanet.formats.splits import choose_split
from retinanet.formats.text_files.lines import read_names
from retinanet.formats.voc.layout import VocLayout, find_voc, xml_files
from retinanet.formats.voc.xml_file import read_xml

CORNERS = ("xmin", "ymin", "xmax", "ymax")

# Errors.
NO_NAME = "{count} object(s) have no <name>; add the class name or remove the object"
NO_BOX = (
    "{count} object(s) have a <bndbox> that is not four finite numbers, expected xmin, ymin, xmax and ymax in pixels"
)
NOT_LISTED = "{{count}} object(s) have a class that is not in {file}; add the class to the file or correct its name"
NOT_READABLE = "{count} XML file(s) cannot be read; correct or restore them"
NOT_VOC = "{count} XML file(s) are not Pascal VOC annotations, expected the root element <annotation>"

NO_XML = "{count} image(s) have no XML file and are not used"


def read_voc(source: DataSource, part: str) -> Annotations:
    """Read one split of a Pascal VOC dataset, or a folder of XML files beside images.

    Coordinates are used unchanged: some tools count pixels from 1, as the original data does, others from 0, and the
    files do not state which. Classes are read from classes.txt or labels.txt in the folder. Without these files, all
    names that occur are used, sorted. Parts and polygons of objects are ignored.

    Args:
        source: a dataset folder.
        part: "train" or "val", the config section of the source.

    Raises:
        InputError: the dataset is missing or malformed; all errors in XML files are reported at once.
    """
    layout = find_voc(Path(source.annotations))
    if layout is None:
        raise InputError(
            f"{source.annotations}: is not a Pascal VOC dataset: expected a folder with XML files, for example in "
            f"Annotations; to detect the format, set data.{part}.format=auto"
        )
    split = choose_split(list(layout.splits), split=source.split, part=part, source=source.annotations)
    files = xml_files(layout, split)
    images = Path(source.images) if source.images is not None else layout.images
    find_name = _ImageNames(images)
    reader = _ObjectReader(layout, source)
    file_names, sizes = [], []
    for index, name in enumerate(files):
        try:
            root = read_xml(layout.annotations / name)
        except InputError as error:
            place = str(error).removeprefix(f"{layout.annotations}/")
            reader.findings.add("error", "xml_file", NOT_READABLE, place)
            continue
        file_names.append(find_name(name, _text(root, "filename")))
        sizes.append(_size(root))
        reader.read(root, name, index)
    findings = reader.findings
    findings.check()
    for name in find_name.unused(set(file_names)) if split is None else ():
        findings.add("note", "image_without_xml_file", NO_XML, name)
    names = reader.class_names()
    order = {name: index for index, name in enumerate(names)}
    category_of = np.array([order[name] for name in reader.numbers_of_names], dtype=np.int64)
    boxes = np.array(reader.boxes, dtype=np.float64).reshape(-1, 4)
    return Annotations(
        source=source.annotations,
        image_folder=str(images),
        file_names=tuple(file_names),
        image_ids=None,
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        image_index=np.array(reader.image_index, dtype=np.int64),
        boxes_xywh=to_xywh(boxes),
        areas=np.full(len(boxes), np.nan),
        category_index=category_of[np.array(reader.names, dtype=np.int64)],
        is_crowd=np.array(reader.is_difficult, dtype=bool) & (source.difficult == "ignore"),
        entry="object",
        entry_numbers=np.array(reader.numbers, dtype=np.int64),
        category_names=names,
        category_ids=None,
        findings=findings.findings(),
    )


class _ImageNames:
    """Find the image of an XML file: the one with the same name or, if there is none, its <filename>."""

    def __init__(self, folder: Path):
        names = image_files(folder)
        self._names = dict.fromkeys(names)
        self._by_stem: dict[str, list[str]] = {}
        for name in names:
            self._by_stem.setdefault(os.path.splitext(name)[0], []).append(name)

    def __call__(self, xml_name: str, file_name: str) -> str:
        """Return the image name relative to the image folder; the file may not exist."""
        stem = os.path.splitext(xml_name)[0]
        given = posixpath.join(posixpath.dirname(xml_name), file_name) if file_name else f"{stem}.jpg"
        of_same_name = self._by_stem.get(stem, [])
        if given in self._names and (not of_same_name or given in of_same_name):
            return given
        if of_same_name:
            return of_same_name[0]
        return file_name if file_name in self._names else given

    def unused(self, used: set[str]) -> list[str]:
        """Return images that are not in `used`."""
        return [name for name in self._names if name not in used]


class _ObjectReader:
    """Collect objects from XML files."""

    def __init__(self, layout: VocLayout, source: DataSource):
        self.boxes = array("d")  # corners
        self.image_index, self.names, self.is_difficult, self.numbers = (array("q") for _ in range(4))
        self.numbers_of_names: dict[str, int] = {}  # in order of first occurrence
        self.findings = FindingCounter(source.annotations)
        self._listed = dict.fromkeys(read_names(layout.names_file)) if layout.names_file else None
        self._not_listed = NOT_LISTED.format(file=layout.names_file)

    def read(self, root: ET.Element, file: str, image: int) -> None:
        """Add the objects of an image."""
        if root.tag != "annotation":
            self.findings.add("error", "xml_root", NOT_VOC, f"{file} (<{root.tag[:40]}>)")
            return
        for number, item in enumerate(root.findall("object"), start=1):
            name, box = _text(item, "name"), item.find("bndbox")
            texts = [_text(box, corner) for corner in CORNERS]
            corners = [to_number(text) for text in texts]
            place = f"{file} object {number}"
            if not name:
                self.findings.add("error", "object_name", NO_NAME, place)
            elif self._listed is not None and name not in self._listed:
                self.findings.add("error", "object_class", self._not_listed, f"{place} ({name[:40]!r})")
            elif None in corners:
                found = f"{place}, class {name[:40]!r} ({[text[:20] for text in texts]})"
                self.findings.add("error", "object_box", NO_BOX, found)
            else:
                self.boxes.extend(value for value in corners if value is not None)
                self.image_index.append(image)
                self.names.append(self.numbers_of_names.setdefault(name, len(self.numbers_of_names)))
                self.is_difficult.append(to_number(_text(item, "difficult")) == 1)
                self.numbers.append(number)

    def class_names(self) -> tuple[str, ...]:
        """Class names in order."""
        return tuple(self._listed if self._listed is not None else sorted(self.numbers_of_names))


def _text(element: ET.Element | None, tag: str) -> str:
    return "" if element is None else (element.findtext(tag) or "").strip()


def _size(root: ET.Element) -> tuple[int, int]:
    """Return height and width; zeros unless both are positive whole numbers, so they are read from the image."""
    height, width = (to_number(_text(root.find("size"), side)) or 0 for side in ("height", "width"))
    is_known = height >= 1 and width >= 1 and height == int(height) and width == int(width)
    return (int(height), int(width)) if is_known else (0, 0)
