"""Decode image files to uint8 RGB tensors, with torchcodec where it is installed, and with Pillow elsewhere.

Measured with torchcodec 0.17.0 and Pillow 13.0.0, on every kind of file used in the tests:
    torchcodec matches Pillow bit for bit on 8-bit JPEG (grey, CMYK, YCCK, progressive), PNG and WebP; both drop alpha.
    For 16-bit PNG, torchcodec rounds value / 257; Pillow keeps the high byte of colour images, so values differ by up
    to 1, and of grey images all bits, which are rounded here.
    torchcodec always applies the EXIF orientation. It decodes all frames of an animated WebP, but only one of an
    animated PNG.
    torchcodec rejects files that Pillow accepts as complete: a PNG with missing rows or a bad checksum, or a JPEG
    without its end; `complete.py` detects these for Pillow. Neither detects all corruption in the compressed pixel data
    of a JPEG, WebP or GIF.
"""

import logging
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from retinanet.errors import InputError, first_line
from retinanet.formats.complete import check_jpeg, check_png

try:
    from torchcodec.decoders import decode_image
except ModuleNotFoundError:
    decode_image = None
except Exception as error:  # built for another version of torch, or a shared library is missing
    decode_image = None
    logging.getLogger(__name__).warning("torchcodec cannot be imported, so Pillow decodes: %s", first_line(error))

# Pillow supports more, but its EPS plugin runs Ghostscript, and every plugin is one more parser of untrusted data.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# MPO, written by some phones, is a JPEG with additional images appended.
TORCHCODEC_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
ORIENTATION_TAG = 0x0112
_pillow_lock = threading.RLock()
# Orientation -> dimensions of (3, H, W) to flip for display, after a transpose if the orientation is 5 or more.
FLIPS: dict[int, tuple[int, ...]] = {1: (), 2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}


class ImageHeader(NamedTuple):
    """Metadata of an image file, read without decoding any pixels."""

    height: int  # as displayed, after applying `orientation`
    width: int
    orientation: int  # EXIF, 1 (as stored) to 8
    format: str  # Pillow's name
    mode: str  # Pillow's name, as stored


def read_header(path: str | PathLike[str], *, max_pixels: int) -> ImageHeader:
    """Read size, orientation and format without decoding any pixels.

    Raises:
        InputError: the file is not a usable image, or has more than `max_pixels` pixels.
    """
    with open_image(path, max_pixels=max_pixels) as opened:
        return opened.header


def read_image(path: str | PathLike[str], *, max_pixels: int, apply_orientation: bool = True) -> Tensor:
    """Decode the first frame to contiguous uint8 (3, H, W) RGB, ignoring alpha and scaling 16 bits to 8.

    Args:
        max_pixels: images with more pixels are rejected based on the header, before memory is allocated.
        apply_orientation: False keeps the pixels as stored, for boxes annotated without applying EXIF.

    Raises:
        InputError: the file is not a usable image, or is damaged.
    """
    with open_image(path, max_pixels=max_pixels) as opened:
        return opened.decode(apply_orientation=apply_orientation).contiguous()


class OpenedImage(NamedTuple):
    """An open image file with a valid header."""

    path: str | PathLike[str]
    file: BinaryIO
    image: Image.Image
    header: ImageHeader
    max_pixels: int

    def decode(self, *, apply_orientation: bool = True) -> Tensor:
        """Like `read_image`, but keep the decoder's strides, usually with interleaved channels.

        Raises:
            InputError: the file is damaged, or its format does not define a value range.
        """
        path, header = self.path, self.header
        # 32-bit or signed TIFFs do not define black and white; 16-bit images have different modes.
        if header.mode in ("I", "F"):
            raise InputError(
                f"{path}: {header.format} with 32-bit or signed samples (mode {header.mode}), expected 8 or 16 bits "
                "unsigned; rescale to 8 or 16 bits and convert the image"
            )
        assert not ImageFile.LOAD_TRUNCATED_IMAGES, "Pillow is set to fill truncated images with grey"
        try:
            shown = _decode(self)
        except Exception as error:  # decoders raise almost any exception type on damaged data
            # torchcodec puts the C++ function and line before the reason.
            reason = re.sub(r"^\w+, \S+:\d+, ", "", str(error))
            raise InputError(
                f"{path}: damaged or truncated {header.format} ({reason}), expected one that decodes completely; "
                "download the file again or remove it from the dataset"
            ) from error
        if apply_orientation:
            return shown
        stored = shown.flip(FLIPS[header.orientation])
        return stored.transpose(1, 2) if header.orientation >= 5 else stored


@contextmanager
def open_image(path: str | PathLike[str], *, max_pixels: int) -> Iterator[OpenedImage]:
    """Open an image and read its header.

    Raises:
        InputError: the file is not a usable image, or has more than `max_pixels` pixels.
    """
    try:
        file = open(path, "rb")
    except OSError as error:  # missing file, directory, or no permission
        raise _cannot_be_read(path, error) from None
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about broken metadata
        try:
            start = file.read(8)
        except OSError as error:  # disk failure or unreachable file server
            raise _cannot_be_read(path, error) from None
        if not start:
            raise InputError(f"{path}: empty file, expected an image; download the file again")
        file.seek(0)
        try:
            with _pillow_limit(max_pixels):
                image = Image.open(file, formats=FORMATS)
            header = _header(image)
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            raise InputError(
                f"{path}: is {pixels[0] if pixels else 'too many'} pixels, expected at most {max_pixels}; shrink the "
                "image or raise data.max_pixels"
            ) from None
        except Exception as error:
            found = f"starts with {start!r}" if isinstance(error, UnidentifiedImageError) else error
            raise InputError(
                f"{path}: not an image, or its header is damaged ({found}), expected {', '.join(FORMATS)}; "
                "convert the file or download it again"
            ) from error
        if header.height * header.width > max_pixels:
            raise InputError(
                f"{path}: {header.width} x {header.height} is {header.height * header.width} pixels, expected at most "
                f"{max_pixels}; shrink the image or raise data.max_pixels"
            )
        yield OpenedImage(path, file, image, header, max_pixels)


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Make Pillow check `max_pixels` instead of its own limit, before it allocates memory.

    Pillow's limit is a global variable: threads take turns, and it is restored for other users of Pillow.
    """
    with _pillow_lock:
        own_limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow warns beyond this, and raises beyond twice this
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = own_limit


def _cannot_be_read(path: str | PathLike[str], error: OSError) -> InputError:
    return InputError(f"{path}: {error.strerror}, expected a readable image; correct the path or restore the file")


def _header(image: Image.Image) -> ImageHeader:
    width, height = image.size
    if image.format == "TIFF":  # Pillow returns the displayed size, and rotates the pixels itself
        orientation = image.tag_v2.get(ORIENTATION_TAG)
        orientation = orientation if orientation in FLIPS else 1
    else:
        orientation = _exif_orientation(image.info.get("exif", b""))
        if orientation >= 5:
            height, width = width, height
    return ImageHeader(height, width, orientation, image.format, image.mode)


def _exif_orientation(exif: bytes) -> int:
    """Parse the orientation tag as torchcodec does, because torchcodec does not expose it.

    Agrees with torchcodec on 9000 random EXIF blocks in JPEG, PNG and WebP. Pillow differs on unusual tag
    types, and would also decode a whole PNG to look for more EXIF blocks.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    with suppress(struct.error):  # truncated
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for index in range(num_entries):
            tag, value = struct.unpack_from(f"{order}H6xH", tiff, start + 2 + 12 * index)
            if tag == ORIENTATION_TAG:
                return value if value in FLIPS else 1
    return 1


def _decode(opened: OpenedImage) -> Tensor:
    image, header = opened.image, opened.header
    is_supported = header.format in TORCHCODEC_FORMATS and not (header.format == "WEBP" and image.n_frames > 1)
    if decode_image is None or not is_supported:
        return _decode_with_pillow(opened)
    opened.file.seek(0)
    try:
        pixels = decode_image(opened.file.read(), mode="RGB")
        if pixels.shape != (3, header.height, header.width):
            raise ValueError(f"header says {header.height} x {header.width}, decoded {list(pixels.shape)}")
        return pixels
    except Exception as error:
        # Pillow decodes some JPEG and WebP files that torchcodec cannot.
        if header.format != "PNG" and "truncated" not in str(error):
            with suppress(Exception):
                return _decode_with_pillow(opened)
        raise


def _decode_with_pillow(opened: OpenedImage) -> Tensor:
    image, header = opened.image, opened.header
    if check := {"JPEG": check_jpeg, "MPO": check_jpeg, "PNG": check_png}.get(header.format):
        opened.file.seek(0)
        check(opened.file.read())
    with _pillow_limit(opened.max_pixels):
        if header.mode.startswith("I;16"):  # 16-bit PNG, 12-bit or 16-bit TIFF; convert("RGB") would clip at 255
            (bits,) = image.tag_v2[258] if header.format == "TIFF" else (16,)
            samples = np.asarray(image).astype(np.float32) * (255 / (2**bits - 1))
            if header.format == "TIFF" and image.tag_v2.get(262) == 0:  # zero means white, handled only for 8 bits
                samples = 255 - samples
            pixels = torch.from_numpy(samples.round().astype(np.uint8)).expand(3, -1, -1)
        else:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    if header.format == "TIFF":
        return pixels
    rotated = pixels.transpose(1, 2) if header.orientation >= 5 else pixels
    return rotated.flip(FLIPS[header.orientation])
