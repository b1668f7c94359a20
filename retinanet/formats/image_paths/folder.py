"""Find the image folder, which file names in annotations are relative to."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from retinanet.errors import InputError
from retinanet.formats.splits import usual_name

MAX_PROBED = 20  # file names to look up in each candidate folder


def find_image_folder(annotations: str, names: Sequence[str], *, split: str | None, part: str) -> str:
    """Find the folder that file names are relative to, searching from the location of the annotations.

    The result is the candidate folder that contains the largest number of the first MAX_PROBED names.

    Args:
        annotations: the annotation file or folder.
        names: file names, as written in the annotations.
        split: the split of the annotations; None if they have none.
        part: "train" or "val", for messages.

    Raises:
        InputError: none of the names exists in any of the usual places.
    """
    probed = [name for name in names if not os.path.isabs(name) and ".." not in Path(name).parts][:MAX_PROBED]
    candidates = list(_candidates(Path(annotations), split))
    hits = [sum(os.path.isfile(folder / name) for name in probed) for folder in candidates]
    if probed and max(hits, default=0) == 0:
        tried = ", ".join(str(folder) for folder in candidates)
        raise InputError(
            f"{annotations}: its images were not found: none of {probed[:3]} is in {tried}; set data.{part}.images to "
            "the folder of the images"
        )
    return str(candidates[hits.index(max(hits))])


def _candidates(annotations: Path, split: str | None) -> Iterator[Path]:
    """Yield existing folders in the usual places: beside the annotations, then one level up."""
    start = annotations if annotations.is_dir() else annotations.parent
    splits = dict.fromkeys(name for name in (split, usual_name(split) if split else None, annotations.stem) if name)
    folders = ["images", "JPEGImages", "imgs", "img", "data"]
    seen = set()
    for base in (start, start.parent):
        places = [base, *(base / name for name in splits)]
        for name in folders:
            places += [*(base / name / split_name for split_name in splits), base / name]
        for place in places:
            if place.is_dir() and place not in seen:
                seen.add(place)
                yield place
