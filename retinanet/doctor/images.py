"""Check the image files of datasets: whether they can be read, fit their annotations, and are there only once."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from retinanet.config import DataConfig
from retinanet.data.reader import stored_as_annotated
from retinanet.doctor.duplicates import difference_hash, groups_of_equals, near_pairs, split_pairs
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset, ImageRecord
from retinanet.formats.findings import MAX_EXAMPLES, Finding
from retinanet.formats.image import open_image
from retinanet.formats.image_notes import ImageNotes
from retinanet.runtime.console import progress

CHUNK = 64  # images handed to the threads at a time, so that memory does not grow with the dataset


class ImageFacts(NamedTuple):
    """What was found in one image file."""

    problem: str | None  # why training cannot use it
    digest: bytes | None  # of the file's content; None if only headers were read
    hash: int | None  # of its brightness pattern; None for flat images, or if only headers were read


def check_images(
    datasets: Mapping[str, Dataset], cfg: DataConfig, *, decode: bool, silent: bool = False
) -> list[Finding]:
    """Read every image of the datasets, in as many threads as there are cores. No file is changed.

    Args:
        datasets: by name, such as "train" and "val".
        decode: decode the images and compare their contents. False reads only headers, which takes a few seconds for
            thousands of images, and finds missing, foreign and mis-sized files, but no damaged or duplicate ones.
    """
    findings: list[Finding] = []
    facts: list[ImageFacts] = []
    for name, dataset in datasets.items():
        notes = ImageNotes(value_range=cfg.value_range, bands=cfg.bands)
        found = list(_read_all(dataset, cfg, notes, decode=decode, what=f"checking {name} images", silent=silent))
        findings += _unreadable(name, dataset, found, cfg)
        findings += _notes(name, notes)
        facts += found
    if decode:
        paths = [path for dataset in datasets.values() for path in dataset.paths]
        split_of = np.repeat(np.arange(len(datasets)), [len(dataset) for dataset in datasets.values()])
        findings += duplicates(facts, paths, split_of, tuple(datasets))
    return findings


def duplicates(
    facts: Sequence[ImageFacts], paths: Sequence[str], split_of: np.ndarray, names: Sequence[str]
) -> list[Finding]:
    """Compare the contents of images, within and across splits.

    Args:
        paths: path of each image.
        split_of: (I,) number of the split of each image.
        names: name of each split.
    """
    equal = groups_of_equals([fact.digest for fact in facts])
    first = {index: group[0] for group in equal for index in group}
    pairs = [
        [one, other]
        for one, other in near_pairs([fact.hash for fact in facts])
        if first.get(one, one) != first.get(other, other)
    ]
    findings = []
    for groups, kind, what in ((equal, "duplicate_images", "the same content"),
                               (pairs, "similar_images", "nearly the same content")):  # fmt: skip
        # One file under several ids is reported when annotations are read.
        groups = [group for group in groups if len({os.path.realpath(paths[index]) for index in group}) > 1]
        within, across = split_pairs(groups, split_of)
        listed = {False: within, True: across}
        for is_leak, some in listed.items():
            if not some:
                continue
            images = sum(map(len, some))
            advice = (
                f"in both {' and '.join(names)}, so scores are too high; keep them on one side"
                if is_leak
                else "so they count several times; remove the copies, unless they are meant to weigh more"
            )
            severity = "warning" if kind == "duplicate_images" or is_leak else "note"
            examples = tuple(" = ".join(paths[index] for index in group[:MAX_EXAMPLES]) for group in some[:MAX_EXAMPLES])
            findings.append(
                Finding(
                    severity, f"{kind}_leak" if is_leak else kind, "images",
                    f"{images} images in {len(some)} group(s) have {what}, {advice}", examples,
                )
            )  # fmt: skip
    return findings


def _read_all(
    dataset: Dataset, cfg: DataConfig, notes: ImageNotes, *, decode: bool, what: str, silent: bool
) -> Iterator[ImageFacts]:
    def read(index: int) -> ImageFacts:
        return read_facts(dataset.image(index), cfg, notes, decode=decode)

    with ThreadPoolExecutor(os.cpu_count()) as threads, progress(None, what, len(dataset), silent=silent) as bar:
        for start in range(0, len(dataset), CHUNK):
            indices = range(start, min(start + CHUNK, len(dataset)))
            yield from threads.map(read, indices)
            bar.update(len(indices))


def read_facts(record: ImageRecord, cfg: DataConfig, notes: ImageNotes, *, decode: bool) -> ImageFacts:
    """Read one image file, and note what its owner should know."""
    try:
        with open_image(record.path, max_pixels=cfg.max_pixels) as opened:
            stored_as_annotated(record, opened.header)
            notes.add(opened, (record.height, record.width))
            if not decode:
                return ImageFacts(None, None, None)
            pixels = opened.decode(value_range=cfg.value_range, bands=cfg.bands)
            opened.file.seek(0)
            digest = hashlib.file_digest(opened.file, "blake2b").digest()
    except InputError as error:
        return ImageFacts(str(error), None, None)
    return ImageFacts(None, digest, difference_hash(pixels))


def _unreadable(name: str, dataset: Dataset, facts: Sequence[ImageFacts], cfg: DataConfig) -> list[Finding]:
    problems = [fact.problem for fact in facts if fact.problem]
    if not problems:
        return []
    count = f"{len(problems)} of {len(dataset)} images cannot be used"
    examples = (*problems[:MAX_EXAMPLES], "...") if len(problems) > MAX_EXAMPLES else tuple(problems)
    if name == "train" and len(problems) <= cfg.max_unreadable:
        message = f"{count}; training replaces them by others (data.max_unreadable: {cfg.max_unreadable})"
        return [Finding("warning", "unreadable_images", f"data.{name}", message, examples)]
    advice = f"more than data.max_unreadable {cfg.max_unreadable}" if name == "train" else "evaluation needs all of them"
    return [Finding("error", "unreadable_images", f"data.{name}", f"{count}: {advice}", examples)]


def _notes(name: str, notes: ImageNotes) -> list[Finding]:
    found = [("note", "value_range", text) for text in notes.value_ranges()]
    found += [("note", "several_frames", text) for text in [notes.frames()] if text]
    found += [("warning", "ambiguous_orientation", text) for text in [notes.ambiguous_orientations()] if text]
    return [Finding(severity, kind, f"data.{name}", text) for severity, kind, text in found]
