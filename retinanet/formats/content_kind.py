"""Recognise the annotation format of a JSON or CSV file from its beginning."""

import csv
import re
from pathlib import Path

from retinanet.config.data import Format

START_BYTES = 1 << 16
COCO_LIST = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')
LVIS_FIELD = re.compile(rb'"(?:neg_category_ids|not_exhaustive_category_ids|frequency)"\s*:')
LABELME_FIELD = re.compile(rb'"(?:shapes|imagePath|imageData)"\s*:')
IS_NUMBER = re.compile(r"\s*[-+]?\d*\.?\d*\s*")  # also matches empty text: an image without objects


def json_kind(file: Path) -> Format | None:
    """Return the format of a JSON file; None if it is not recognised."""
    start = _start(file)
    if not start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    if LABELME_FIELD.search(start) and not COCO_LIST.search(start):
        return "labelme"
    if LVIS_FIELD.search(start):
        return "lvis"
    return "coco" if COCO_LIST.search(start) else None


def csv_kind(file: Path) -> Format | None:
    """Return the format of a CSV file, from its first row; None if it is not recognised."""
    lines = _start(file).decode("utf-8-sig", "replace").splitlines()
    line = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=line.count)
    try:
        row = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return None
    names = {field.strip().lower().replace("_", "") for field in row}
    if {"imageid", "labelname", "xmin"} <= names:
        return "open_images"
    if names & {"xmin", "x1", "left"} and names & {"label", "class", "classname", "category", "labelname"}:
        return "csv"
    is_headerless = len(row) == 6 and all(IS_NUMBER.fullmatch(field) for field in row[1:5]) and row[0].strip() != ""
    return "csv" if is_headerless and not IS_NUMBER.fullmatch(row[0]) else None


def _start(file: Path) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(START_BYTES)
    except OSError:
        return b""
