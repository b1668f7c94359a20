"""Check the image files of datasets: readability, agreement with annotations, and duplicates."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import NamedTuple

import numpy as np

from retinanet.config import Config, DataConfig
from retinanet.data.image_settings import build_image_settings
from retinanet.data.reader import annotated_as_displayed
from retinanet.doctor.channels import MAX_IMAGES, ChannelStatistics, ChannelSums, channel_statistics, channel_sums
from retinanet.doctor.duplicates import difference_hash, find_duplicates
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset, ImageRecord
from retinanet.formats.findings import Finding, Severity, shortened
from retinanet.formats.images.notes import ImageNotes
from retinanet.formats.images.reader import open_bands
from retinanet.formats.images.settings import ImageSettings
from retinanet.runtime.console import progress

CHUNK = 64  # images handed to the threads at a time, so memory does not grow with the dataset
PROBLEMS = {
    "unreadable_images": "image(s) cannot be read",
    "image_size_differs": "image(s) differ in size from their annotations, so their boxes would be misplaced",
}


class ImageFacts(NamedTuple):
    """The results for one image file."""

    problem: tuple[str, str] | None = None  # a kind from PROBLEMS and a message: training cannot use the image
    digest: bytes | None = None  # of the file's content; None if only headers were read
    hash: int | None = None  # of its brightness pattern; None for flat images, or if only headers were read
    is_special: bool = False  # rotated, with several frames, or not 8-bit: worth a note
    sums: ChannelSums | None = None  # of its pixels, if they are part of the statistics


class ImageCheck(NamedTuple):
    """The results for the image files of all datasets."""

    findings: list[Finding]
    unusable: dict[str, set[int]]  # indices of images that training cannot use, by dataset
    channels: ChannelStatistics | None = None  # of training images; None if they were not decoded


def check_images(
    datasets: Mapping[str, Dataset],
    cfg: Config,
    *,
    decode: bool,
    max_images: int | None = None,
    silent: bool = False,
) -> ImageCheck:
    """Check the images of datasets, using one thread per core. No file is changed.

    Args:
        datasets: by name, "train" and "val".
        decode: decode the images and compare their contents. False reads only headers, which detects missing files,
            files of other kinds and wrong sizes, but no damage or duplicates.
        max_images: read at most this many images per dataset, evenly spaced, and report this. None: all.
        silent: show no progress.
    """
    findings: list[Finding] = []
    unusable: dict[str, set[int]] = {}
    facts: list[ImageFacts] = []
    channels: ChannelStatistics | None = None
    settings = build_image_settings(cfg)
    for name, dataset in datasets.items():
        count = len(dataset) if max_images is None else min(max_images, len(dataset))
        indices = _evenly_spaced(range(len(dataset)), count)
        summed = set(_evenly_spaced(indices, MAX_IMAGES)) if decode and name == "train" else set()
        found = list(_read_all(dataset, indices, settings, summed, decode=decode, what=f"{name} images", silent=silent))
        facts += found
        special = [index for index, fact in zip(indices, found, strict=True) if fact.is_special]
        unusable[name] = {index for index, fact in zip(indices, found, strict=True) if fact.problem}
        findings += _problems(name, len(dataset), found, cfg.data)
        findings += _notes(name, dataset, special, settings)
        if name == "train":
            channels = channel_statistics(fact.sums for fact in found if fact.sums is not None)
        if count < len(dataset):
            message = f"only {count} of {len(dataset)} images were checked; `retinanet check` reads all of them"
            findings.append(Finding("note", "sampled_images", f"data.{name}", message))
    if decode and max_images is None:
        findings += find_duplicates(
            {name: dataset.paths for name, dataset in datasets.items()},
            [fact.digest for fact in facts],
            [fact.hash for fact in facts],
        )
    return ImageCheck(findings, unusable, channels)


def _read_all(
    dataset: Dataset,
    indices: Sequence[int],
    settings: ImageSettings,
    summed: Collection[int],
    *,
    decode: bool,
    what: str,
    silent: bool,
) -> Iterator[ImageFacts]:
    def read(index: int) -> ImageFacts:
        return read_facts(dataset.image(index), settings, decode=decode, sum_pixels=index in summed)

    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        closing(progress(None, f"checking {what}", len(indices), silent=silent)) as bar,
    ):
        for start in range(0, len(indices), CHUNK):
            for facts in threads.map(read, indices[start : start + CHUNK]):
                yield facts
                bar.update()


def _evenly_spaced(indices: Sequence[int], count: int) -> list[int]:
    places = np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int))
    return [indices[place] for place in places.tolist()]


def read_facts(record: ImageRecord, settings: ImageSettings, *, decode: bool, sum_pixels: bool = False) -> ImageFacts:
    """Check the file or files of one image; see `check_images`. `sum_pixels` also computes sums for its channels."""
    try:
        with open_bands(record.path, settings) as opened:
            header = opened.header
            try:
                annotated_as_displayed(record, header)
            except InputError as error:
                return ImageFacts(("image_size_differs", str(error)))
            is_special = header.orientation != 1 or bool(opened.scaled_types) or opened.has_more_frames()
            if not decode:
                return ImageFacts(is_special=is_special)
            pixels = opened.decode()
            digest = hashlib.blake2b()
            for part in opened.files:
                part.file.seek(0)
                digest.update(part.file.read())
    except InputError as error:
        return ImageFacts(("unreadable_images", str(error)))
    sums = channel_sums(pixels) if sum_pixels else None
    return ImageFacts(None, digest.digest(), difference_hash(pixels), is_special, sums)


def _notes(name: str, dataset: Dataset, special: Sequence[int], settings: ImageSettings) -> tuple[Finding, ...]:
    """Report images worth a note. They are read one by one, so the examples are the same every time."""
    notes = ImageNotes(f"data.{name}", value_range=settings.value_range)
    for index in special:
        record = dataset.image(index)
        with suppress(InputError), open_bands(record.path, settings) as opened:
            notes.add(opened, (record.height, record.width))
    return notes.findings()


def _problems(name: str, num_images: int, facts: Sequence[ImageFacts], cfg: DataConfig) -> list[Finding]:
    """Return one finding per kind of problem; its severity depends on how many images training replaces."""
    problems = [fact.problem for fact in facts if fact.problem]
    are_replaced = name == "train" and len(problems) <= cfg.max_unreadable and len(problems) < len(facts)
    if are_replaced:
        advice = f"training replaces them with other images (data.max_unreadable: {cfg.max_unreadable})"
    elif name == "train":
        advice = "correct them, or remove them from the annotations"
        if len(problems) < len(facts):
            advice += f"; data.max_unreadable allows {cfg.max_unreadable}"
    else:
        advice = "an evaluation needs all of them: correct them, or remove them from the annotations"
    findings = []
    for kind, count in Counter(kind for kind, _ in problems).items():
        messages = [message for other, message in problems if other == kind]
        text = f"{count} of {num_images} {PROBLEMS[kind]}; {advice}"
        severity: Severity = "warning" if are_replaced else "error"
        findings.append(Finding(severity, kind, f"data.{name}", text, shortened(messages)))
    return findings
