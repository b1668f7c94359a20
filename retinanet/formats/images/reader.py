"""Read images: decode the bands in one file, or in several files, to one uint8 tensor."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.config.data import Range, ValueRange
from retinanet.errors import InputError
from retinanet.formats.image_paths.band_files import band_paths
from retinanet.formats.images.decode import to_channels
from retinanet.formats.images.opened import ImageHeader, OpenedImage, open_image
from retinanet.formats.images.orientation import swaps_sides
from retinanet.formats.images.settings import ImageSettings
from retinanet.formats.images.value_range import Samples, band_ranges, each_range


def read_header(path: str | PathLike[str], *, max_pixels: int) -> ImageHeader:
    """Read size, orientation and kind without decoding any pixels.

    Raises:
        InputError: the file is not a usable image, or has more than `max_pixels` pixels.
    """
    with open_image(path, max_pixels=max_pixels) as opened:
        return opened.header


def read_image(
    path: str | PathLike[str] | bytes,
    *,
    max_pixels: int,
    apply_orientation: bool = True,
    value_range: ValueRange = "auto",
    bands: Sequence[int] | None = None,
    band_files: Sequence[str] | None = None,
    channels: int = 3,
) -> Tensor:
    """Decode the first frame to contiguous uint8 (C, H, W), by default RGB, ignoring alpha.

    Args:
        path: path or content of the image file; with `band_files`, path of the file that matches the first pattern.
        max_pixels: images with more pixels are rejected based on the header, before memory is allocated.
        apply_orientation: False keeps the pixels as stored, for boxes annotated without applying EXIF.
        value_range: values that become 0 and 255, for images that are not 8-bit; "auto" chooses them per image.
        bands: the bands to use, counted from 1: as many as channels, or one for three. None: all except alpha; of four
            bands, the first three if C is 3.
        band_files: patterns of the files of an image, such as ("{stem}.png", "../thermal/{stem}.tif"). None: one file.
        channels: C. With 3, a grey image is repeated; with 1, a colour image is converted to grey.

    Raises:
        InputError: a file is not a usable image or is damaged, an image lacks one of the bands or has another number
            of them, or its files differ in size.
    """
    settings = ImageSettings(
        max_pixels=max_pixels,
        value_range=value_range,
        bands=None if bands is None else tuple(bands),
        band_files=None if band_files is None else tuple(band_files),
        channels=channels,
    )
    with open_bands(path, settings) as opened:
        return opened.decode(apply_orientation=apply_orientation).contiguous()


class Part(NamedTuple):
    """The bands that one file contributes to an image."""

    file: OpenedImage
    bands: tuple[int, ...] | None  # None: all except alpha
    positions: tuple[int, ...]  # channels of the image that these bands become
    value_range: ValueRange

    def decode(self, *, apply_orientation: bool) -> Tensor:
        """Decode these bands to uint8 (N, H, W) with N positions; see `OpenedImage.decode`."""
        return self.file.decode(
            apply_orientation=apply_orientation,
            value_range=self.value_range,
            bands=self.bands,
            channels=len(self.positions),
        )


def assembled(parts: Sequence[Part], decoded: Iterable[Tensor], channels: int) -> Tensor:
    """Combine the decoded bands of each part, uint8 (N, H, W), to an image (C, H, W)."""
    image: Tensor | None = None
    for part, pixels in zip(parts, decoded, strict=True):
        if len(parts) == 1:
            return to_channels(pixels, channels)
        if image is None:
            total = sum(len(other.positions) for other in parts)
            image = torch.empty((*pixels.shape[1:], total), dtype=torch.uint8).permute(2, 0, 1)
        image[list(part.positions)] = pixels
    assert image is not None
    return to_channels(image, channels)


class OpenedBands(NamedTuple):
    """The open files of an image: a single one, or those of `data.band_files`, with the annotated file first."""

    files: tuple[OpenedImage, ...]
    settings: ImageSettings

    @property
    def header(self) -> ImageHeader:
        """Header of the annotated file."""
        return self.files[0].header

    @property
    def scaled_types(self) -> list[str]:
        """Types of the samples that `data.value_range` scales; empty if all files are 8-bit."""
        return list(dict.fromkeys(file.header.dtype for file in self.files if file.header.dtype != "uint8"))

    def decode(self, *, apply_orientation: bool = True) -> Tensor:
        """Decode to uint8 (C, H, W), keeping the decoder's strides, usually with interleaved channels.

        Raises:
            InputError: see `read_image`.
        """
        parts = self.parts()
        if not apply_orientation and len({swaps_sides(file.header.orientation) for file in self.files}) > 1:
            raise InputError(
                f"{self._names()}: are rotated differently by EXIF, expected files of the same size as stored"
            )
        decoded = (part.decode(apply_orientation=apply_orientation) for part in parts)
        return assembled(parts, decoded, self.settings.channels)

    def samples(self) -> Iterator[tuple[Samples, list[Range]]]:
        """Decode the stored samples of each file that is not 8-bit; yield them with the range of each of their bands.

        Raises:
            InputError: see `read_image`.
        """
        for part in self.parts():
            samples = part.file.samples(part.bands, len(part.positions))
            if samples is not None:
                yield samples, band_ranges(samples, part.value_range)

    def has_more_frames(self) -> bool:
        """Return whether a file is an animation or has several pages; only the first is used."""
        return any(file.has_more_frames() for file in self.files)

    def _names(self) -> str:
        return ", ".join(str(file.path) for file in self.files)

    def parts(self) -> list[Part]:
        """Divide the channels of the image among the files.

        Raises:
            InputError: the number of bands is wrong; for a single file, its decoder checks this.
        """
        settings = self.settings
        if len(self.files) == 1:
            positions = tuple(range(settings.channels))
            return [Part(self.files[0], settings.bands, positions, settings.value_range)]
        each = [[(file, band) for band in file.header.bands_without_alpha] for file in self.files]
        known = list(itertools.chain.from_iterable(each))
        count = f"{self._names()}: have {' + '.join(str(len(bands)) for bands in each)} bands besides alpha"
        if settings.bands is not None and max(settings.bands) > len(known):
            raise InputError(
                f"{count}, but data.bands selects band {max(settings.bands)}; select bands that all images have"
            )
        if settings.bands is None and len(known) != settings.channels:
            raise InputError(
                f"{count}, expected {settings.channels} (model.in_channels); set model.in_channels={len(known)}, or "
                "select bands with data.bands, which counts through all files"
            )
        chosen = known if settings.bands is None else [known[band - 1] for band in settings.bands]
        parts = []
        for file in self.files:
            positions = tuple(position for position, (of_file, _) in enumerate(chosen) if of_file is file)
            if positions:
                bands = tuple(chosen[position][1] for position in positions)
                parts.append(Part(file, bands, positions, self._range_of(positions)))
        return parts

    def _range_of(self, positions: Sequence[int]) -> ValueRange:
        value_range = self.settings.value_range
        if value_range == "auto":
            return value_range
        ranges = each_range(value_range)
        return value_range if len(ranges) == 1 else tuple(ranges[position] for position in positions)


@contextmanager
def open_bands(
    path: str | PathLike[str] | bytes, settings: ImageSettings, *, max_tiff_pixels: int | None = None
) -> Iterator[OpenedBands]:
    """Open the file or files of an image, given as a path or as the content of its only file, and read their headers.

    Args:
        max_tiff_pixels: see `open_image`.

    Raises:
        InputError: a file is not a usable image, or has more pixels than allowed; the files differ in size.
    """
    several = settings.band_files is not None and not isinstance(path, bytes)
    paths = band_paths(path, settings.band_files) if several else [path]
    with ExitStack() as stack:
        files = tuple(
            stack.enter_context(open_image(file, max_pixels=settings.max_pixels, max_tiff_pixels=max_tiff_pixels))
            for file in paths
        )
        first = files[0].header
        for file in files[1:]:
            if (file.header.height, file.header.width) != (first.height, first.width):
                raise InputError(
                    f"{file.path}: is {file.header.width}x{file.header.height}, but {files[0].path} is "
                    f"{first.width}x{first.height}; all files of an image must have the same size and be "
                    "aligned pixel by pixel"
                )
        yield OpenedBands(files, settings)
