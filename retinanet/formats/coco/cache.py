"""Cache the content of large annotation files as memory-mapped arrays.

An entry is a folder of .npy files. Its name is derived from the path, size and modification time of the annotation file
and from the reader's version, so a changed file is read again. Processes that map the same entry share its memory.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinanet.config import DataSource
from retinanet.formats.annotations import Annotations

log = logging.getLogger(__name__)

READER_VERSION = 1  # increase when the result for the same file changes
MIN_BYTES = 10_000_000  # smaller files are read in a fraction of a second
ARRAYS = ("sizes", "image_index", "boxes_xywh", "areas", "category_index", "is_crowd", "entry_numbers")
SEPARATOR = "\0"  # between file names, which cannot contain it


def read_cached(source: DataSource, read: Callable[[], Annotations | None]) -> Annotations | None:
    """Read an annotation file with `read`, or from the cache if the file has not changed.

    Only results without findings are stored, because findings must be reported on every read. If the cache cannot be
    read or written, it is bypassed.
    """
    try:
        status = os.stat(source.annotations)
    except OSError:
        return read()
    if status.st_size < MIN_BYTES:
        return read()
    path = _digest(os.path.realpath(source.annotations))
    entry = cache_folder() / f"{path}-{_digest([status.st_size, status.st_mtime_ns, READER_VERSION])}"
    found = _load(entry, source.annotations, source.images)
    if found is None:
        found = read()
        if found is not None and not found.findings and found.federated is None:
            _store(found, entry, earlier=f"{path}-*")
    return found


def cache_folder() -> Path:
    """Return the cache folder, in $XDG_CACHE_HOME or ~/.cache. It can be deleted at any time."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "retinanet" / "annotations"


def _load(entry: Path, source: str, images: str | None) -> Annotations | None:
    """Map an entry into memory; return None if it is missing or damaged."""
    try:
        facts = json.loads((entry / "facts.json").read_bytes())
        names, ids = _load_texts(entry / "file_names.txt"), facts["image_ids"]
        result = Annotations(
            source=source,
            image_folder=images,
            file_names=names,
            image_ids=tuple(np.load(entry / "image_ids.npy").tolist() if ids == "integers" else ids),
            entry=facts["entry"],
            category_names=tuple(facts["category_names"]),
            category_ids=None if facts["category_ids"] is None else tuple(facts["category_ids"]),
            is_relative=facts["is_relative"],
            supercategories=tuple(facts["supercategories"]),
            **{name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in ARRAYS},
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    rows = {len(getattr(result, name)) for name in ARRAYS if name != "sizes"}
    is_whole = rows == {facts["boxes"]} and len(result.sizes) == len(names) == facts["images"]
    return result if is_whole else None


def _store(read: Annotations, entry: Path, *, earlier: str) -> None:
    """Write an entry under a temporary name, rename it, and delete the entries of earlier versions of the file."""
    is_integers = read.image_ids is not None and all(isinstance(value, int) for value in read.image_ids)
    facts = {
        "images": len(read),
        "boxes": len(read.image_index),
        "image_ids": "integers" if is_integers else read.image_ids,
        "entry": read.entry,
        "category_names": read.category_names,
        "category_ids": read.category_ids,
        "is_relative": read.is_relative,
        "supercategories": read.supercategories,
    }
    if any(SEPARATOR in name for name in read.file_names):
        return
    folder = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=entry.parent))
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(read, name))
        if is_integers:
            np.save(folder / "image_ids.npy", np.array(read.image_ids, dtype=np.int64))
        _store_texts(read.file_names, folder / "file_names.txt")
        (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        for other in entry.parent.glob(earlier):
            shutil.rmtree(other, ignore_errors=True)
        os.rename(folder, entry)  # fails if another process was faster
    except (OSError, ValueError, OverflowError) as error:
        log.debug("%s: not cached: %s", read.source, error)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _store_texts(texts: Sequence[str], file: Path) -> None:
    file.write_bytes(SEPARATOR.join(texts).encode("utf-8", "surrogatepass"))


def _load_texts(file: Path) -> tuple[str, ...]:
    text = file.read_bytes().decode("utf-8", "surrogatepass")
    return tuple(text.split(SEPARATOR)) if text else ()


def _digest(key: Any) -> str:
    return hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
