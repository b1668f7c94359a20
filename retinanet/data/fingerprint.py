"""Fingerprint of the training images, saved in checkpoints to detect a changed sample order on resume."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset


def fingerprint(data: Dataset, uses: np.ndarray | None = None) -> dict[str, Any]:
    """Identify the images of a dataset, in order, as plain data for a checkpoint.

    Args:
        uses: (I,) how often each image is used per epoch, which may depend on its objects; None: once.

    Returns: `names`, (I,) int64 hashes of the file names, or of the names of images that are not files; `sizes`, a
        digest of the annotated sizes, which determine the aspect-ratio buckets; `uses`, a digest of `uses`, empty if
        it is None.
    """
    return {
        "names": torch.tensor(_name_hashes(data.paths, is_file=data.source is None), dtype=torch.int64),
        "sizes": _digest(data.sizes, "<i8"),
        "uses": "" if uses is None else _digest(uses.round(9), "<f8"),
    }


def _digest(values: np.ndarray, dtype: str) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values, dtype=dtype), digest_size=16).hexdigest()


def check_same_images(
    checkpoint: Path,
    before: dict[str, Any],
    data: Dataset,
    uses: np.ndarray | None = None,
    *,
    unreadable: Collection[str],
) -> str | None:
    """Check that a run can resume with these training images.

    Images may be removed if the run found unreadable ones, because its error message suggests this. Images are
    identified by name; their order and size may change.

    Args:
        checkpoint: path of the checkpoint, for messages.
        before: fingerprint in the checkpoint.
        uses: as in `fingerprint`.
        unreadable: paths of the images that the run could not read.

    Returns: the reason why the sample order changes, for the log; None if it does not.

    Raises:
        InputError: there are new images, or images were removed although all of them could be read.
    """
    now = fingerprint(data, uses)
    if torch.equal(before["names"], now["names"]) and before["sizes"] == now["sizes"]:
        if before["uses"] == now["uses"]:
            return None
        return (
            f"{checkpoint}: the objects in data.train changed, and data.sampling depends on them: the sample order "
            "changes from here on"
        )
    earlier, current = Counter(before["names"].tolist()), Counter(now["names"].tolist())
    removed, added = earlier - current, current - earlier
    if added or (removed and not unreadable):
        new = [path for path, name in zip(data.paths, now["names"].tolist(), strict=True) if name in added]
        example = f" (such as {new[0]})" if new else ""
        raise InputError(
            f"{checkpoint}: was trained on {earlier.total()} images, but data.train has {current.total()}: "
            f"{removed.total()} are missing, {added.total()} are new{example}; resume with the same images, or start a "
            "new run"
        )
    known = (removed & Counter(_name_hashes(unreadable, is_file=data.source is None))).total()
    what = (
        f"lacks {removed.total()} of the {earlier.total()} images it had, {known} of them recorded as unreadable"
        if removed
        else "has the same images in a different order or with different sizes"
    )
    return f"{checkpoint}: data.train now {what}: the sample order changes from here on"


def _name_hashes(paths: Iterable[str], *, is_file: bool) -> list[int]:
    """Hash each name to signed 64 bits; file names without folder and extension, so files may be moved or converted."""
    names = (os.path.splitext(os.path.basename(path))[0] if is_file else path for path in paths)
    digests = (hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest() for name in names)
    return [int.from_bytes(digest, "little", signed=True) for digest in digests]
