"""Image files to uint8 RGB tensors, or to an InputError that names the file.

Measured with torchcodec 0.17.0 and Pillow 13.0.0, on every way of writing a file that the test lists:
    torchcodec equals Pillow bit for bit on 8-bit JPEG (grey, CMYK, YCCK, progressive), PNG and WebP; both drop alpha.
    Of 16-bit PNG it rounds value / 257, while Pillow keeps the high byte of colour and clips grey at 255.
    It always applies the EXIF orientation, and decodes all frames of an animated WebP, but one of an animated PNG.
    It refuses what Pillow may return as if whole: a PNG with too few rows or a bad checksum, a JPEG without its end.
    Other bytes inside the compressed pixels of a JPEG, WebP or GIF can pass both unnoticed; nothing here can tell.
"""

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor
from torchcodec.decoders import decode_image

from retinanet.errors import InputError

# Pillow knows more, but its EPS starts Ghostscript, and each further plugin is one more parser of untrusted bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# MPO is a JPEG with further images behind the first, as some phones write.
TORCHCODEC_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
ORIENTATION_TAG = 0x0112
# From stored to shown, after a transpose where the orientation is 5 or more: dimensions of (3, H, W) to flip.
FLIPS: dict[int, tuple[int, ...]] = {1: (), 2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}


class ImageHeader(NamedTuple):
    """What an image file says about itself, before a pixel is decoded."""

    height: int  # as shown, i.e. after `orientation`
    width: int
    orientation: int  # EXIF, 1 (as stored) to 8
    format: str  # Pillow's name
    mode: str  # Pillow's name, as stored


def read_header(path: str | PathLike[str], *, max_pixels: int) -> ImageHeader:
    """Read size, orientation and format without decoding a pixel; InputError where the file is no usable image."""
    with open_image(path, max_pixels=max_pixels) as opened:
        return opened.header


def read_image(path: str | PathLike[str], *, max_pixels: int, apply_orientation: bool = True) -> Tensor:
    """Decode the first frame to contiguous uint8 (3, H, W) RGB; alpha is ignored, 16 bits are scaled to 8.

    Args:
        max_pixels: refuse a larger image by its header, before any memory is taken for it.
        apply_orientation: False keeps the pixels as stored, for boxes that were drawn without regard to EXIF.
    """
    with open_image(path, max_pixels=max_pixels) as opened:
        return opened.decode(apply_orientation=apply_orientation).contiguous()


class OpenedImage(NamedTuple):
    """A file whose header has been read and found in order."""

    path: str | PathLike[str]
    file: BinaryIO
    image: Image.Image
    header: ImageHeader

    def decode(self, *, apply_orientation: bool = True) -> Tensor:
        """As `read_image`, but strided as the decoder left it: mostly with channels interleaved.

        Raises:
            InputError: the file is damaged, or its kind has no agreed black and white.
        """
        path, header = self.path, self.header
        # Both decoders handle 16 bits otherwise: these are 32-bit or signed TIFFs, with no agreed black and white.
        if header.mode in ("I", "F"):
            raise InputError(
                f"{path}: {header.format} with 32-bit or signed samples (mode {header.mode}), expected 8 or 16 bits "
                "without sign; choose what is black and white, and convert the image"
            )
        assert not ImageFile.LOAD_TRUNCATED_IMAGES, "someone set Pillow to fill cut-off images with grey"
        try:
            shown = _decode(self.file, self.image, header)
        except Exception as error:  # libraries raise nearly any type on damaged bytes
            # torchcodec's reason follows the C++ function and line that raised it.
            reason = re.sub(r"^\w+, \S+:\d+, ", "", str(error))
            raise InputError(
                f"{path}: damaged or cut-off {header.format} ({reason}), expected one that decodes completely; "
                "fetch the file again or take it out of the data set"
            ) from error
        if apply_orientation:
            return shown
        stored = shown.flip(FLIPS[header.orientation])
        return stored.transpose(1, 2) if header.orientation >= 5 else stored


@contextmanager
def open_image(path: str | PathLike[str], *, max_pixels: int) -> Iterator[OpenedImage]:
    """Open an image and read its header; InputError where the file is no usable image of at most `max_pixels`."""
    try:
        file = open(path, "rb")
    except OSError as error:  # missing, a directory, not permitted
        raise _cannot_be_read(path, error) from None
    with file, warnings.catch_warnings():
        # Pillow warns of its own pixel limit, where ours decides, and of broken metadata that no pixel depends on.
        warnings.simplefilter("ignore")
        try:
            start = file.read(8)
        except OSError as error:  # a broken disk, a file server that is gone
            raise _cannot_be_read(path, error) from None
        if not start:
            raise InputError(f"{path}: empty file, expected an image; fetch the file again")
        file.seek(0)
        try:
            image = Image.open(file, formats=FORMATS)
            header = _header(image)
        except Image.DecompressionBombError as error:
            raise InputError(
                f"{path}: {str(error).partition(',')[0].lower()} that Pillow opens, expected at most {max_pixels} "
                "(data.max_pixels); shrink the image or take it out of the data set"
            ) from None
        except Exception as error:
            found = f"starts with {start!r}" if isinstance(error, UnidentifiedImageError) else error
            raise InputError(
                f"{path}: not an image, or its header is damaged ({found}), expected {', '.join(FORMATS)}; "
                "convert the file or fetch it again"
            ) from error
        if header.height * header.width > max_pixels:
            raise InputError(
                f"{path}: {header.width} x {header.height} is {header.height * header.width} pixels, expected at most "
                f"{max_pixels}; shrink the image or raise data.max_pixels"
            )
        yield OpenedImage(path, file, image, header)


def _cannot_be_read(path: str | PathLike[str], error: OSError) -> InputError:
    return InputError(
        f"{path}: {error.strerror}, expected an image that can be read; correct the path or fetch the file"
    )


def _header(image: Image.Image) -> ImageHeader:
    width, height = image.size
    if image.format == "TIFF":  # Pillow gives the shown size, and turns the pixels itself
        orientation = image.tag_v2.get(ORIENTATION_TAG)
        orientation = orientation if orientation in FLIPS else 1
    else:
        orientation = _exif_orientation(image.info.get("exif", b""))
        if orientation >= 5:
            height, width = width, height
    return ImageHeader(height, width, orientation, image.format, image.mode)


def _exif_orientation(exif: bytes) -> int:
    """Read the tag as torchcodec does, whose result cannot be told from outside; Pillow differs on odd tag types.

    Equal on 9000 random EXIF blocks in JPEG, PNG and WebP. Pillow would also decode a PNG to look for more of them.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    with suppress(struct.error):  # cut off
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for index in range(num_entries):
            tag, value = struct.unpack_from(f"{order}H6xH", tiff, start + 2 + 12 * index)
            if tag == ORIENTATION_TAG:
                return value if value in FLIPS else 1
    return 1


def _decode(file: BinaryIO, image: Image.Image, header: ImageHeader) -> Tensor:
    if header.format not in TORCHCODEC_FORMATS or (header.format == "WEBP" and image.n_frames > 1):
        return _decode_with_pillow(image, header)
    file.seek(0)
    try:
        pixels = decode_image(file.read(), mode="RGB")
        if pixels.shape != (3, header.height, header.width):
            raise ValueError(f"header says {header.height} x {header.width}, decoded {list(pixels.shape)}")
        return pixels
    except Exception as error:
        # Pillow may know a JPEG or WebP that torchcodec does not. It also passes images that are not whole: any PNG
        # with too few rows, and a JPEG whose missing end was filled with zeros, as broken downloads are.
        if header.format != "PNG" and "truncated" not in str(error):
            with suppress(Exception):
                return _decode_with_pillow(image, header)
        raise


def _decode_with_pillow(image: Image.Image, header: ImageHeader) -> Tensor:
    if header.mode.startswith("I;16"):  # TIFF of 12 or 16 bits; convert("RGB") would clip at 255
        (bits,) = image.tag_v2[258]
        samples = np.asarray(image).astype(np.float32) * (255 / (2**bits - 1))
        if image.tag_v2.get(262) == 0:  # white is zero, which Pillow heeds for 8 bits only
            samples = 255 - samples
        pixels = torch.from_numpy(samples.round().astype(np.uint8)).expand(3, -1, -1)
    else:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    if header.format == "TIFF":
        return pixels
    turned = pixels.transpose(1, 2) if header.orientation >= 5 else pixels
    return turned.flip(FLIPS[header.orientation])
