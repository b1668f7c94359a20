"""Read correct COCO files quickly: decode typed records, a few megabytes at a time, into arrays.

Files that deviate from the format in any way are left to `tolerant.py`, which is slower.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, BinaryIO

import msgspec
import numpy as np

from retinanet.config import DataSource
from retinanet.formats.annotations import Annotations
from retinanet.formats.federated import Federated, pairs_of
from retinanet.formats.numbers import MAX_NUMBER
from retinanet.formats.text_files.json_file import open_json

PIECE = 1 << 23  # bytes read at once
MAX_BUFFER = 1 << 26  # files with a longer entry are left to `tolerant.py`
MAX_VALUE = 1 << 16  # length of other top-level values, such as "info"


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    height: int
    width: int


class _LvisImage(msgspec.Struct, gc=False):
    id: int | str
    height: int
    width: int
    neg_category_ids: tuple[int, ...]
    not_exhaustive_category_ids: tuple[int, ...]
    coco_url: str = ""
    file_name: str = ""


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: bool | int | None = 0


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str
    supercategory: str | None = None


class _Declined(Exception):
    """The file deviates from the format or exceeds the limits of this module."""


def read_stream(source: DataSource, *, lvis: bool = False) -> Annotations | None:
    """Read a COCO or LVIS file that follows the format exactly; return None if it deviates in any way.

    Raises:
        InputError: the file cannot be opened.
    """
    columns = _Columns()
    add: dict[str, Callable[[list[Any]], None]] = {
        "images": columns.images.extend,
        "annotations": columns.add_annotations,
        "categories": columns.categories.extend,
    }
    decoders: dict[str, msgspec.json.Decoder[Any]] = {
        "images": msgspec.json.Decoder(list[_LvisImage] if lvis else list[_Image]),
        "annotations": msgspec.json.Decoder(list[_Annotation]),
        "categories": msgspec.json.Decoder(list[_Category]),
    }
    try:
        with open_json(source.annotations) as stream:
            for part, items in _items(stream, decoders):
                add[part](items)
        return columns.to_annotations(source)
    # OverflowError: an integer that does not fit into an array. RecursionError: nested too deeply.
    except (_Declined, msgspec.MsgspecError, UnicodeError, OverflowError, RecursionError):
        return None


class _Columns:
    """The fields of all entries; image ids are numbered in the order of their first annotation."""

    def __init__(self) -> None:
        self.images: list[_Image | _LvisImage] = []
        self.categories: list[_Category] = []
        self.code_of: dict[int | str, int] = defaultdict(count().__next__)
        self.annotations: list[dict[str, np.ndarray]] = []

    def add_annotations(self, items: list[_Annotation]) -> None:
        code_of = self.code_of
        self.annotations.append(
            {
                "id": np.array([item.id for item in items], dtype=np.int64),
                "image": np.array([code_of[item.image_id] for item in items], dtype=np.int64),
                "category": np.array([item.category_id for item in items], dtype=np.int64),
                "bbox": np.array([item.bbox for item in items], dtype=np.float64).reshape(-1, 4),
                "area": np.array([item.area for item in items], dtype=np.float64),  # None becomes NaN
                "crowd": np.array([item.iscrowd or 0 for item in items], dtype=np.int64),
            }
        )

    def to_annotations(self, source: DataSource) -> Annotations:
        if not self.annotations:
            self.add_annotations([])
        column = {name: np.concatenate([part[name] for part in self.annotations]) for name in self.annotations[0]}
        self.annotations.clear()
        image_ids = tuple(image.id for image in self.images)
        file_names = tuple(map(_file_name, self.images))
        index_of = {image_id: index for index, image_id in enumerate(image_ids)}
        categories = sorted(self.categories, key=lambda category: category.id)
        category_ids = np.array([category.id for category in categories], dtype=np.int64)
        names = [category.name for category in categories]
        sizes = np.array([(image.height, image.width) for image in self.images], dtype=np.int64).reshape(-1, 2)
        is_known = ~np.isnan(column["area"])
        _require(
            len(index_of) == len(image_ids),
            all(file_names),
            all(image_id != "" for image_id in image_ids),
            bool(((sizes > 0) & (sizes < MAX_NUMBER)).all()),
            all(image_id in index_of for image_id in self.code_of),
            len(names) > 0,
            _are_unique(category_ids),
            len(set(names)) == len(names),
            all(name and name == name.strip() for name in names),
            bool(np.isin(column["category"], category_ids).all()),
            _are_unique(column["id"]),
            bool((np.abs(column["bbox"]) < MAX_NUMBER).all()),
            bool((np.abs(column["area"][is_known]) < MAX_NUMBER).all()),
            bool(np.isin(column["crowd"], (0, 1)).all()),
        )
        index_of_code = np.array([index_of[image_id] for image_id in self.code_of], dtype=np.int64)
        return Annotations(
            source=source.annotations,
            image_folder=source.images,
            file_names=file_names,
            image_ids=image_ids,
            sizes=sizes,
            image_index=index_of_code[column["image"]],
            boxes_xywh=column["bbox"],
            areas=column["area"],
            category_index=np.searchsorted(category_ids, column["category"]),
            is_crowd=column["crowd"].astype(bool),
            entry="annotation",
            entry_numbers=column["id"],
            category_names=tuple(names),
            category_ids=tuple(category.id for category in categories),
            supercategories=tuple(category.supercategory or "" for category in categories),
            federated=_federated(self.images, category_ids),
        )


def file_of_url(url: str) -> str:
    """Return the last folder and the file name in a URL; in LVIS, these are COCO's image folders and files."""
    return "/".join(url.split("/")[-2:])


def _file_name(image: _Image | _LvisImage) -> str:
    return image.file_name if isinstance(image, _Image) or image.file_name else file_of_url(image.coco_url)


def _federated(images: list[_Image | _LvisImage], category_ids: np.ndarray) -> Federated | None:
    if not images or isinstance(images[0], _Image):
        return None
    index_of = {category_id: index for index, category_id in enumerate(category_ids.tolist())}
    lvis = [image for image in images if isinstance(image, _LvisImage)]
    fields = [(image.neg_category_ids, image.not_exhaustive_category_ids) for image in lvis]
    try:
        absent, incomplete = ([[index_of[n] for n in ids] for ids in rows] for rows in zip(*fields, strict=True))
    except KeyError:
        raise _Declined from None
    return Federated(pairs_of(absent), pairs_of(incomplete))


def _are_unique(values: np.ndarray) -> bool:
    """Return whether no value is repeated. Ids are usually sorted, so sorting is several times faster than hashing."""
    ordered = np.sort(values)
    return not (ordered[1:] == ordered[:-1]).any()


def _require(*conditions: bool) -> None:
    if not all(conditions):
        raise _Declined


# ---- read the top-level lists in pieces

_OPEN = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")
_KEY = re.compile(rb'\s*"([^"\\]{1,100})"\s*:\s*')
_LIST = re.compile(rb"\[\s*(\]?)")
_NEXT = re.compile(rb"\s*([,}])")
_BETWEEN = re.compile(rb"\}\s*(,)\s*\{")  # between two entries, unless nested or in a string
_END = re.compile(rb"\}\s*(\])\s*[,}]")  # the end of a list of entries, with the same exceptions


def _items(stream: BinaryIO, decoders: dict[str, msgspec.json.Decoder]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the entries of the lists that have decoders, in pieces; skip all other values.

    A match of `_BETWEEN` or `_END` inside a string or a nested list is detected: the piece that ends there has an
    unclosed string or bracket, so it is not valid JSON.

    Raises:
        _Declined, msgspec.MsgspecError: the file is not an object that contains each of these lists once.
    """
    buffer = _Buffer(stream)
    buffer.take(_OPEN)
    missing = set(decoders)
    separator = b","
    while separator == b",":
        key = buffer.take(_KEY)[1].decode()
        if key in decoders:
            _require(key in missing)
            missing.remove(key)
            if not buffer.take(_LIST)[1]:
                for piece in buffer.pieces():
                    yield key, decoders[key].decode(b"[" + piece + b"]")
        else:
            buffer.skip_value()
        separator = buffer.take(_NEXT)[1]
    _require(not missing, not buffer.data[buffer.position :].strip(), not stream.read(1))


class _Buffer:
    """The part of a file that is in memory, and the current position."""

    def __init__(self, stream: BinaryIO):
        self.stream, self.data, self.position = stream, b"", 0

    def fill(self) -> bool:
        """Read the next part of the file and drop the data before the position; return False at the end."""
        more = self.stream.read(PIECE)
        self.data, self.position = self.data[self.position :] + more, 0
        _require(len(self.data) <= MAX_BUFFER)
        return bool(more)

    def look_ahead(self) -> None:
        """Make at least MAX_VALUE bytes available after the position, unless the file ends first."""
        while len(self.data) - self.position < MAX_VALUE and self.fill():
            pass

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        """Match a short token at the position and move past it."""
        self.look_ahead()
        found = pattern.match(self.data, self.position)
        if found is None:
            raise _Declined
        self.position = found.end()
        return found

    def skip_value(self) -> None:
        """Move past a short value of any type."""
        self.look_ahead()
        # surrogateescape: the last character may be incomplete, and encoding restores the exact number of bytes.
        text = self.data[self.position : self.position + MAX_VALUE].decode("utf-8", "surrogateescape")
        try:
            _, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            raise _Declined from None
        self.position += len(text[:end].encode("utf-8", "surrogateescape"))

    def pieces(self) -> Iterator[bytes]:
        """Yield the content of a list of objects in pieces of whole entries, and move past the list."""
        while (end := _END.search(self.data, self.position)) is None:
            if (cut := self._last_cut()) is not None:
                yield self.data[self.position : cut]
                self.position = cut + 1
            if not self.fill():
                raise _Declined
        yield self.data[self.position : end.start(1)]
        self.position = end.end(1)

    def _last_cut(self) -> int | None:
        """Return the position of the last comma between two entries."""
        window = 1 << 12
        while True:
            start = max(self.position, len(self.data) - window)
            if cuts := list(_BETWEEN.finditer(self.data, start)):
                return cuts[-1].start(1)
            if start == self.position:
                return None
            window *= 16
