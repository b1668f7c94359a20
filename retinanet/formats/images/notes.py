"""Findings about images that can be read but should be examined: one finding per kind.

They cover the value range of images that are not 8-bit, files with several frames, and EXIF orientations that leave
open whether boxes were drawn on the displayed or on the stored image.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.formats.findings import Finding, FindingCounter
from retinanet.formats.images.orientation import swaps_sides
from retinanet.formats.images.reader import ImageHeader, OpenedImage, open_image
from retinanet.formats.images.value_range import ValueRange, automatic_range, bounds

MAX_DECODED = 64  # images per sample type that are decoded to find their value range
SEVERAL_FRAMES = "{count} image(s) are animations or have several pages; only the first frame or page is used"
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


class ImageNotes:
    """Collect findings image by image.

    Args:
        where: the file or folder that lists the images, for messages.
        value_range: `data.value_range`.
        bands: `data.bands`.
    """

    def __init__(self, where: str, *, value_range: ValueRange = "auto", bands: Sequence[int] | None = None):
        self.where = where
        self.value_range = value_range
        self.bands = bands
        self._counter = FindingCounter(where)
        self._types: Counter[str] = Counter()  # images by sample type
        self._ranges: dict[str, Counter[tuple[float, float]]] = defaultdict(Counter)  # by sample type
        self._bounds: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def add(self, opened: OpenedImage, annotated_size: tuple[int, int]) -> None:
        """Examine one image. The first `MAX_DECODED` images that are not 8-bit are decoded.

        Raises:
            InputError: the image has to be decoded and is damaged, or lacks one of the bands.
        """
        if orientation_is_ambiguous(opened.header, annotated_size):
            self._counter.add("warning", "ambiguous_orientation", AMBIGUOUS, str(opened.path))
        if opened.has_more_frames():
            self._counter.add("note", "several_frames", SEVERAL_FRAMES, str(opened.path))
        dtype = opened.header.dtype
        if dtype == "uint8":
            return
        self._types[dtype] += 1
        if self._types[dtype] <= MAX_DECODED and (samples := opened.samples(self.bands)) is not None:
            chosen = automatic_range(samples) if self.value_range == "auto" else self.value_range
            self._ranges[dtype][chosen] += 1
            self._bounds[dtype].append(bounds(samples) or chosen)

    def findings(self) -> tuple[Finding, ...]:
        """Return all findings so far, at most one per kind and sample type."""
        return (*self.value_ranges(), *self._counter.findings())

    def value_ranges(self) -> tuple[Finding, ...]:
        """Report which values become black and white, for each sample type."""
        return tuple(self._describe(dtype, ranges) for dtype, ranges in sorted(self._ranges.items()))

    def _describe(self, dtype: str, ranges: Counter[tuple[float, float]]) -> Finding:
        count, decoded = self._types[dtype], ranges.total()
        low = min(minimum for minimum, _ in self._bounds[dtype])
        high = max(maximum for _, maximum in self._bounds[dtype])
        seen = f"{count} image(s) have {dtype} samples, from {low:g} to {high:g}"
        if decoded < count:
            seen += f" in the first {decoded}"
        if self.value_range != "auto":
            start, end = self.value_range
            beyond = sum(minimum < start or maximum > end for minimum, maximum in self._bounds[dtype])
            clipped = f"; {beyond} of them have values beyond it, which are clipped" if beyond else ""
            message = f"{seen}: data.value_range scales [{start:g}, {end:g}] to 0..255{clipped}"
            return Finding("warning" if beyond else "note", "value_range", self.where, message)
        if len(ranges) == 1:
            ((start, end),) = ranges
            message = f"{seen}: data.value_range auto scales [{start:g}, {end:g}] to 0..255"
            return Finding("note", "value_range", self.where, message)
        listed = ", ".join(f"[{start:g}, {end:g}] in {number}" for (start, end), number in ranges.most_common(4))
        message = (
            f"{seen}: data.value_range auto scales different ranges to 0..255 ({listed}"
            f"{', ...' if len(ranges) > 4 else ''}), so brightness differs between images; set data.value_range to one "
            f"range for all, such as [{min(0.0, low):g}, {max(end for _, end in ranges):g}]"
        )
        return Finding("warning", "value_range", self.where, message)


def sample_notes(
    data: Dataset, where: str, *, max_pixels: int, value_range: ValueRange, bands: Sequence[int] | None, max_images: int
) -> ImageNotes:
    """Examine up to `max_images` images, evenly spaced in the dataset, and skip those that cannot be read."""
    notes = ImageNotes(where, value_range=value_range, bands=bands)
    for index in np.unique(np.linspace(0, len(data) - 1, min(max_images, len(data))).astype(int)).tolist():
        height, width = data.sizes[index].tolist()
        try:
            with open_image(data.paths[index], max_pixels=max_pixels) as opened:
                notes.add(opened, (height, width))
        except InputError:  # reported when the image is needed
            continue
    return notes
