"""Findings about images that can be read but should be examined: one finding per kind.

They cover the value range of images that are not 8-bit, files with several frames, bands that are not used, and EXIF
orientations that leave open whether boxes were drawn on the displayed or on the stored image.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.formats.findings import Finding, FindingCounter
from retinanet.formats.images.opened import ImageHeader
from retinanet.formats.images.orientation import swaps_sides
from retinanet.formats.images.reader import OpenedBands, open_bands
from retinanet.formats.images.settings import ImageSettings
from retinanet.formats.images.value_range import MAX_SHARING, Range, ValueRange, bounds

MAX_DECODED = 64  # images per sample type that are decoded to find their value range
SHOWN_RANGES = 4  # ranges listed in a message
SEVERAL_FRAMES = "{count} image(s) are animations or have several pages; only the first frame or page is used"
UNUSED_BANDS = (
    "{count} image(s) have 4 bands besides alpha, of which the first three are used; to use all, set "
    "model.in_channels=4; to select three, set data.bands, such as [1, 2, 3]"
)
AMBIGUOUS = (
    "{count} image(s) are mirrored, rotated by 180 degrees, or square and rotated according to EXIF: their size does "
    "not show whether the boxes were drawn on the displayed image (assumed) or on the stored pixels; draw the boxes "
    "on some of them to check"
)


def orientation_is_ambiguous(header: ImageHeader, annotated_size: tuple[int, int]) -> bool:
    """Return whether EXIF rotates or mirrors an image in a way that its size does not reveal.

    Its annotations then fit both the displayed image, for which they are used, and the stored pixels. This is the case
    for mirrored images, rotations by 180 degrees, and all orientations of a square image.

    Args:
        annotated_size: height and width in the annotations.
    """
    displayed = (header.height, header.width)
    if header.orientation == 1 or annotated_size != displayed:
        return False
    return not swaps_sides(header.orientation) or header.height == header.width


class _Scaling(NamedTuple):
    """How the samples of one image are scaled: one entry for all bands that share a range, or one for each band."""

    ranges: tuple[Range, ...]  # that become 0..255
    limits: tuple[Range, ...]  # minimum and maximum of the samples

    @property
    def is_clipped(self) -> bool:
        """Whether samples are outside the range of their band."""
        return any(
            minimum < low or maximum > high
            for (low, high), (minimum, maximum) in zip(self.ranges, self.limits, strict=True)
        )


class ImageNotes:
    """Collect findings image by image.

    Args:
        where: the file or folder that lists the images, for messages.
        value_range: `data.value_range`.
    """

    def __init__(self, where: str, *, value_range: ValueRange = "auto"):
        self.where = where
        self.value_range = value_range
        self._counter = FindingCounter(where)
        self._types: Counter[str] = Counter()  # images by sample type
        self._scalings: dict[str, list[_Scaling]] = defaultdict(list)  # of the decoded images, by sample type

    def add(self, opened: OpenedBands, annotated_size: tuple[int, int]) -> None:
        """Examine one image. The first `MAX_DECODED` images that are not 8-bit are decoded.

        Raises:
            InputError: the image has to be decoded and is damaged, or lacks one of the bands.
        """
        path = str(opened.files[0].path)
        if orientation_is_ambiguous(opened.header, annotated_size):
            self._counter.add("warning", "ambiguous_orientation", AMBIGUOUS, path)
        if opened.has_more_frames():
            self._counter.add("note", "several_frames", SEVERAL_FRAMES, path)
        if _has_unused_band(opened):
            self._counter.add("note", "unused_bands", UNUSED_BANDS, path)
        self._types.update(opened.scaled_types)
        if any(self._types[dtype] <= MAX_DECODED for dtype in opened.scaled_types):
            for dtype, scaling in _scalings(opened).items():
                self._scalings[dtype].append(scaling)

    def findings(self) -> tuple[Finding, ...]:
        """Return all findings so far, at most one per kind and sample type."""
        return (*self.value_ranges(), *self._counter.findings())

    def value_ranges(self) -> tuple[Finding, ...]:
        """Report which values become black and white, for each sample type."""
        return tuple(self._describe(dtype, scalings) for dtype, scalings in sorted(self._scalings.items()))

    def _describe(self, dtype: str, scalings: list[_Scaling]) -> Finding:
        count, decoded = self._types[dtype], len(scalings)
        limits = [limit for scaling in scalings for limit in scaling.limits]
        low, high = min(minimum for minimum, _ in limits), max(maximum for _, maximum in limits)
        seen = f"{count} image(s) have {dtype} samples, from {low:g} to {high:g}"
        if decoded < count:
            seen += f" in the first {decoded}"
        ranges = Counter(scaling.ranges for scaling in scalings)
        if self.value_range != "auto":
            beyond = sum(scaling.is_clipped for scaling in scalings)
            clipped = f"; {beyond} of them have values beyond it, which are clipped" if beyond else ""
            message = f"{seen}: data.value_range scales {_shown(scalings[0].ranges)} to 0..255{clipped}"
            return Finding("warning" if beyond else "note", "value_range", self.where, message)
        if len(ranges) == 1:
            message = f"{seen}: data.value_range auto scales {_shown(scalings[0].ranges)} to 0..255"
            return Finding("note", "value_range", self.where, message)
        listed = ", ".join(f"{_shown(some)} in {number}" for some, number in ranges.most_common(SHOWN_RANGES))
        common = _covering(scalings)
        which = "one range for all" if len(common) == 1 else "one range for each channel"
        message = (
            f"{seen}: data.value_range auto scales different ranges to 0..255 ({listed}"
            f"{', ...' if len(ranges) > SHOWN_RANGES else ''}), so brightness differs between images; set "
            f"data.value_range to {which}, such as {_shown(common)}"
        )
        return Finding("warning", "value_range", self.where, message)


def _has_unused_band(opened: OpenedBands) -> bool:
    """Whether a fourth band is ignored because the network has three channels; other numbers are rejected."""
    settings, bands = opened.settings, opened.header.bands_without_alpha
    return len(opened.files) == 1 and settings.bands is None and settings.channels == 3 and len(bands) == 4


def _scalings(opened: OpenedBands) -> dict[str, _Scaling]:
    """Decode an image, and return how the bands of each sample type are scaled."""
    bands: dict[str, list[tuple[Range, Range | None]]] = defaultdict(list)
    for samples, ranges in opened.samples():
        limits = [bounds(band) for band in samples.separate()]
        bands[samples.values.dtype.name] += zip(ranges, limits, strict=True)
    return {dtype: _scaling_of(found) for dtype, found in bands.items()}


def _scaling_of(bands: list[tuple[Range, Range | None]]) -> _Scaling:
    ranges = tuple(chosen for chosen, _ in bands)
    if len(bands) <= MAX_SHARING and len(set(ranges)) == 1:
        limits = [limit for _, limit in bands if limit is not None] or [ranges[0]]
        return _Scaling(ranges[:1], ((min(low for low, _ in limits), max(high for _, high in limits)),))
    return _Scaling(ranges, tuple(limit or chosen for chosen, limit in bands))


def _covering(scalings: list[_Scaling]) -> tuple[Range, ...]:
    """The smallest ranges, each starting at 0 or below, that contain the ranges of all images."""
    most = max(len(scaling.ranges) for scaling in scalings)
    columns = list(zip(*(scaling for scaling in scalings if len(scaling.ranges) == most), strict=True))
    by_band = [list(zip(*column, strict=True)) for column in columns]  # ranges and limits, each by band
    return tuple(
        (min(0.0, *(low for low, _ in limits)), max(high for _, high in ranges))
        for ranges, limits in zip(*by_band, strict=True)
    )


def _shown(ranges: tuple[Range, ...]) -> str:
    """Format ranges as in a config; equal ranges are shown as one."""
    texts = [f"[{low:g}, {high:g}]" for low, high in ranges]
    return texts[0] if len(set(texts)) == 1 else f"[{', '.join(texts)}]"


def sample_notes(data: Dataset, where: str, settings: ImageSettings, *, max_images: int) -> ImageNotes:
    """Examine up to `max_images` images, evenly spaced in the dataset, and skip those that cannot be read."""
    notes = ImageNotes(where, value_range=settings.value_range)
    for index in np.unique(np.linspace(0, len(data) - 1, min(max_images, len(data))).astype(int)).tolist():
        height, width = data.sizes[index].tolist()
        try:
            with open_bands(data.paths[index], settings) as opened:
                notes.add(opened, (height, width))
        except InputError:  # reported when the image is needed
            continue
    return notes
