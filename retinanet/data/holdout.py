"""Hold out part of the training set for validation, chosen by a hash of file names.

The choice depends only on an image's name, so it stays the same when other images are added or the folder moves.
"""

import re
from pathlib import PurePath

import numpy as np

from retinanet.data.sampler import stable_hash
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset

FOLDER = "folder"  # value of `data.val_group` that keeps images of the same folder together


def is_held_out(data: Dataset, *, fraction: float, group: str | None) -> np.ndarray:
    """Choose the images to hold out: (I,) bool, about `fraction` of the image groups, at least one but not all.

    Args:
        group: `folder`, or a regular expression to search for in file names. Images with the same match, or with the
            same first group if the expression has one, stay together. Without a match, or with None, an image is its
            own group.
    Raises:
        InputError: all images are in one group.
    """
    keys = [_group_of(path, group) for path in data.paths]
    hashes = np.array([stable_hash("holdout", key) for key in keys], dtype=np.int64)
    held_out = hashes < fraction * 2**32
    if not held_out.any():
        held_out = hashes == hashes.min()
    elif held_out.all():
        held_out = hashes != hashes.max()
    if held_out.all() or not held_out.any():
        raise InputError(
            f"data.val_fraction: all {len(data)} images are in one group, so none can be held out; change "
            "data.val_group, or set data.val"
        )
    return held_out


def _group_of(path: str, group: str | None) -> str:
    name = PurePath(path)
    if group == FOLDER:
        return name.parent.name
    if group is not None and (found := re.search(group, name.name)):
        return found[1] if found.re.groups and found[1] is not None else found[0]
    return name.name
