"""Open one image file: check its header, then decode it to a uint8 tensor with C channels."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError, features
from torch import Tensor

from retinanet.errors import InputError
from retinanet.formats.images.decode import (
    decode_8_bits,
    decode_16_bit_png,
    displayed,
    is_16_bit_png,
    stored,
    to_channels,
)
from retinanet.formats.images.file_kinds import RAW, START, describe
from retinanet.formats.images.orientation import exif_orientation, swaps_sides
from retinanet.formats.images.pillow_limit import pillow_limit
from retinanet.formats.images.settings import pixel_limit
from retinanet.formats.images.tiff import PREFIXES, Tiff, has_more_pages, read_samples, read_tiff
from retinanet.formats.images.value_range import Samples, ValueRange, scale_to_uint8

# Pillow supports more, but its EPS plugin runs Ghostscript, and every plugin is one more parser of untrusted data.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", *(["AVIF"] if features.check("avif") else []))
TIFF_BYTES_PER_PIXEL = 8  # memory for the samples of a TIFF, per pixel of `max_pixels`


class ImageHeader(NamedTuple):
    """Metadata of an image file, read without decoding any pixels."""

    height: int  # as displayed, after applying `orientation`
    width: int
    orientation: int  # EXIF, 1 (as stored) to 8
    format: str  # Pillow's name
    bands: int  # 1 for grey, 3 for colour; in TIFF, all samples of a pixel
    dtype: str  # NumPy's name for the type of a sample
    alpha: tuple[int, ...] = ()  # bands of a TIFF that are marked as alpha, counted from 1

    @property
    def bands_without_alpha(self) -> tuple[int, ...]:
        """The bands that an image can be made of, counted from 1."""
        return tuple(band for band in range(1, self.bands + 1) if band not in self.alpha)


class OpenedImage(NamedTuple):
    """An open image file with a valid header."""

    path: str | PathLike[str]
    file: BinaryIO
    image: Image.Image | None  # None: a TIFF that only `tiff` can read
    tiff: Tiff | None
    header: ImageHeader
    max_pixels: int

    def decode(
        self,
        *,
        apply_orientation: bool = True,
        value_range: ValueRange = "auto",
        bands: Sequence[int] | None = None,
        channels: int = 3,
    ) -> Tensor:
        """Decode the first frame to uint8 (C, H, W), keeping the decoder's strides, usually with interleaved channels.

        Args:
            apply_orientation: False keeps the pixels as stored, for boxes annotated without applying EXIF.
            value_range: values that become 0 and 255, for images that are not 8-bit; see `value_range.py`.
            bands: the bands to use, counted from 1: C of them, or one that is repeated. None: all except alpha.
            channels: C. With 3, a grey image is repeated; with 1, a colour image is converted to grey.

        Raises:
            InputError: the file is damaged, lacks one of the bands, or has another number of bands.
        """
        orientation = self.header.orientation
        with self.explaining_damage():
            samples = self._samples(bands, channels)
            if samples is None:
                assert self.image is not None
                shown = decode_8_bits(
                    self.file,
                    self.image,
                    orientation=orientation,
                    size=(self.header.height, self.header.width),
                    max_pixels=self.max_pixels,
                    grey=channels == 1 and self.header.bands == 1,
                )
                shown = to_channels(shown if bands is None else shown[[band - 1 for band in bands]], channels)
                return shown if apply_orientation else stored(shown, orientation)
            values = scale_to_uint8(samples, value_range)
            pixels = to_channels(torch.from_numpy(values).permute(2, 0, 1), channels)
            return displayed(pixels, orientation) if apply_orientation else pixels

    def samples(self, bands: Sequence[int] | None = None, channels: int = 3) -> Samples | None:
        """Decode the stored samples that `data.value_range` scales; None for 8-bit images, which are not scaled.

        Raises:
            InputError: the file is damaged, lacks one of the bands, or has another number of bands.
        """
        if self.header.dtype == "uint8":
            return None
        with self.explaining_damage():
            return self._samples(bands, channels)

    def has_more_frames(self) -> bool:
        """Return whether the file is an animation or has several pages; only the first is used."""
        if self.tiff is not None:
            return has_more_pages(self.file)
        with suppress(Exception), pillow_limit(self.max_pixels):
            return self.header.format != "MPO" and bool(getattr(self.image, "is_animated", False))
        return False

    def _samples(self, bands: Sequence[int] | None, channels: int) -> Samples | None:
        """Decode to samples of any type; None if the image should be decoded directly to 8 bits."""
        tiff, header = self.tiff, self.header
        self.check_bands(bands, channels)
        is_colour_or_grey = bands is None and channels in (1, 3)
        if tiff is not None and tiff.dtype is not None:
            if self.image is None or not is_colour_or_grey or header.dtype != "uint8":
                chosen = bands or header.bands_without_alpha
                if is_colour_or_grey:
                    chosen = (1, 2, 3) if tiff.bands >= 3 else (1,)
                return self._tiff_samples(tiff, chosen)
        if self.image is None or not is_16_bit_png(self.image):
            return None
        values = decode_16_bit_png(self.file, self.image, max_pixels=self.max_pixels)
        return Samples(values if bands is None else values[..., [band - 1 for band in bands]], bits=16)

    def _tiff_samples(self, tiff: Tiff, bands: Sequence[int]) -> Samples:
        memory = tiff.memory(len(bands))
        if memory > TIFF_BYTES_PER_PIXEL * self.max_pixels:
            raise InputError(
                f"{self.path}: {tiff.layout} need {memory} bytes, expected at most {TIFF_BYTES_PER_PIXEL} per "
                "pixel of data.max_pixels; save fewer bands, shrink the image, or set data.max_pixels to at least "
                f"{-(-memory // TIFF_BYTES_PER_PIXEL)}"
            )
        return read_samples(self.file, tiff, bands)

    def check_bands(self, bands: Sequence[int] | None, channels: int) -> None:
        """Check that the file has the bands that are needed.

        Raises:
            InputError: it lacks one of them, or has a number of bands that cannot be used.
        """
        header = self.header
        if bands is not None:
            if max(bands) > header.bands:
                raise InputError(
                    f"{self.path}: has {header.bands} band(s) besides alpha, but data.bands selects band {max(bands)}; "
                    "select bands that all images have"
                )
            return
        if channels == 3:
            if header.bands > 4:
                raise InputError(
                    f"{self.path}: has {header.bands} bands, expected 1, 3 or 4; select three with data.bands, or set "
                    "model.in_channels to use more"
                )
            return
        found = len(header.bands_without_alpha)
        if found != channels and (channels, found) != (1, 3):
            selected = f"select {channels} of them with data.bands, or " if found > channels else ""
            alpha = (
                f"; band {header.alpha[0]} is marked as alpha: if it is not, select it with data.bands"
                if header.alpha
                else ""
            )
            raise InputError(
                f"{self.path}: has {found} band(s) besides alpha, expected {channels} (model.in_channels); {selected}"
                f"set model.in_channels={found}{alpha}"
            )

    @contextmanager
    def explaining_damage(self) -> Iterator[None]:
        """Report any exception in the `with` block as a damaged file."""
        assert not ImageFile.LOAD_TRUNCATED_IMAGES, "Pillow is set to fill truncated images with grey"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except InputError:
            raise
        except Exception as error:  # decoders raise almost any exception type on damaged data
            # torchcodec puts the C++ function and line before the reason.
            reason = re.sub(r"^\w+, \S+:\d+, ", "", str(error)) or type(error).__name__
            raise InputError(
                f"{self.path}: damaged or truncated {self.header.format} ({reason}), expected a file that decodes "
                "completely; download the file again or remove it from the dataset"
            ) from error


@contextmanager
def open_image(
    path: str | PathLike[str] | bytes,
    *,
    max_pixels: int,
    max_tiff_pixels: int | None = None,
    name: str | PathLike[str] | None = None,
) -> Iterator[OpenedImage]:
    """Open an image, given as a path or as the content of a file, and read its header.

    Args:
        max_tiff_pixels: accept TIFFs with up to this number of pixels, for reading them in parts.
        name: path for messages, if the content is given.

    Raises:
        InputError: the file is not a usable image, or has more than `max_pixels` pixels.
    """
    content, path = (path, name or f"{len(path)} bytes") if isinstance(path, bytes) else (None, path)
    try:
        file: BinaryIO = open(path, "rb") if content is None else io.BytesIO(content)
    except OSError as error:  # missing file, folder, or no permission
        raise _cannot_be_read(path, error) from None
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about broken metadata
        try:
            start = file.read(START)
        except OSError as error:  # disk failure or unreachable file server
            raise _cannot_be_read(path, error) from None
        if not start:
            raise InputError(f"{path}: empty file, expected an image; download the file again")
        try:
            tiff = read_tiff(file) if start.startswith(PREFIXES) else None
            if (tiff and tiff.is_raw) or start.startswith(b"CR\2", 8):
                raise InputError(f"{path}: {RAW.format('DNG, NEF, CR2 or similar')}")
            file.seek(0)
            accepted, advice = pixel_limit(max_pixels, max_tiff_pixels, is_tiff=tiff is not None)
            image = _open_with_pillow(file, accepted, tiff)
            if tiff and tiff.dtype is None and image is None:
                raise InputError(
                    f"{path}: is a TIFF with {tiff.layout}, which is not supported: save it with deflate compression, "
                    "for example with gdal_translate -co COMPRESS=DEFLATE"
                )
            header = _header(image, tiff)
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            found = f"{pixels[0] if pixels else 'too many'} pixels"
            raise InputError(f"{path}: has {found}, expected at most {accepted}; {advice}") from None
        except InputError:
            raise
        except Exception as error:
            if description := describe(start):
                raise InputError(f"{path}: {description}") from None
            found = f"starts with {start[:8]!r}" if isinstance(error, UnidentifiedImageError) else error
            raise InputError(
                f"{path}: not an image, or its header is damaged ({found}), expected {', '.join(FORMATS)}; "
                "convert the file or download it again"
            ) from error
        if header.height * header.width > accepted:
            found = f"{header.height * header.width} pixels ({header.width} x {header.height})"
            raise InputError(f"{path}: has {found}, expected at most {accepted}; {advice}")
        yield OpenedImage(path, file, image, tiff, header, max_pixels)


def _open_with_pillow(file: BinaryIO, max_pixels: int, tiff: Tiff | None) -> Image.Image | None:
    """Open the image; return None for a TIFF whose samples only `tiff.py` reads correctly."""
    if tiff is not None and (tiff.bands > 4 or tiff.dtype not in (None, np.uint8)):
        return None
    try:
        with pillow_limit(max_pixels):
            image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        if tiff is None:
            raise
        return None
    wide = image.format == "TIFF" and image.mode.startswith(("I", "F"))
    return None if wide else image


def _header(image: Image.Image | None, tiff: Tiff | None) -> ImageHeader:
    if tiff is not None:
        height, width = tiff.height, tiff.width
        orientation, file_format = tiff.orientation, "TIFF"
    else:
        assert image is not None and image.format is not None
        width, height = image.size
        orientation, file_format = exif_orientation(image.info.get("exif", b"")), image.format
    if swaps_sides(orientation):
        height, width = width, height
    if tiff is not None and tiff.dtype is not None:
        return ImageHeader(height, width, orientation, file_format, tiff.bands, tiff.dtype.name, tiff.alpha)
    assert image is not None
    is_grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16") or is_16_bit_png(image, "LA")
    dtype = "uint16" if is_16_bit_png(image) else "uint8"
    return ImageHeader(height, width, orientation, file_format, 1 if is_grey else 3, dtype)


def _cannot_be_read(path: str | PathLike[str], error: OSError) -> InputError:
    return InputError(f"{path}: {error.strerror}, expected a readable image; correct the path or restore the file")
