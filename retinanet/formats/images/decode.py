"""Decode image files to uint8 tensors, RGB or grey, with torchcodec if it is installed, otherwise with Pillow.

Observed with torchcodec 0.17.0 and Pillow 13.0.0 on every kind of file used in the tests:
    torchcodec matches Pillow bit for bit on 8-bit JPEG (grey, CMYK, YCCK, progressive), PNG and WebP; both drop alpha.
    torchcodec rounds 16-bit PNG to 8 bits, so Pillow decodes these.
    torchcodec always applies the EXIF orientation. It decodes all frames of an animated WebP, but only one of an
    animated PNG.
    torchcodec rejects files that Pillow accepts as complete: a PNG with missing rows or a bad checksum, or a JPEG
    without its end; `complete.py` detects these for Pillow. Neither detects all corruption in the compressed pixel data
    of a JPEG, WebP or GIF.
"""

import logging
from contextlib import suppress
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retinanet.errors import first_line
from retinanet.formats.images.complete import check_jpeg, check_png
from retinanet.formats.images.orientation import FLIPS, swaps_sides
from retinanet.formats.images.pillow_limit import pillow_limit

try:
    from torchcodec.decoders import decode_image
except ModuleNotFoundError:
    decode_image = None
except Exception as error:  # built for another version of torch, or a shared library is missing
    decode_image = None
    logging.getLogger(__name__).warning("torchcodec cannot be imported; using Pillow instead: %s", first_line(error))

# MPO, written by some phones, is a JPEG with additional images appended.
TORCHCODEC_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
LUMA = (19595, 38470, 7471)  # weights of red, green and blue in grey, in units of 1 / 65536


def is_16_bit_png(image: Image.Image, channels: str = "") -> bool:
    """Whether a PNG has 16 bits per sample, which Pillow would reduce to 8 for colour images.

    Args:
        channels: accept only images with these channels, such as "LA"; empty accepts all.
    """
    if image.format != "PNG":
        return False
    stored_channels, _, bits = str(image.tile[0].args).partition(";")
    return bits == "16B" and channels in ("", stored_channels)


def decode_8_bits(
    file: BinaryIO, image: Image.Image, *, orientation: int, size: tuple[int, int], max_pixels: int, grey: bool = False
) -> Tensor:
    """Decode the first frame to uint8 (3, H, W) RGB, as displayed.

    Args:
        size: expected height and width.
        grey: the image is grey: decode it to (1, H, W), which equals each channel of the RGB result.

    Raises:
        Exception: of almost any type, if the file is damaged.
    """
    is_supported = image.format in TORCHCODEC_FORMATS and not (image.format == "WEBP" and image.n_frames > 1)
    if decode_image is None or not is_supported:
        return _decode_with_pillow(file, image, orientation, max_pixels, grey=grey)
    file.seek(0)
    try:
        pixels = decode_image(file.read(), mode="GRAY" if grey else "RGB")
        if pixels.shape != (1 if grey else 3, *size):
            raise ValueError(f"decoded to {list(pixels.shape)}, but the header gives {size[0]} x {size[1]}")
        return pixels
    except Exception as error:
        # Pillow decodes some JPEG and WebP files that torchcodec cannot.
        if image.format != "PNG" and "truncated" not in str(error):
            with suppress(Exception):
                return _decode_with_pillow(file, image, orientation, max_pixels, grey=grey)
        raise


def decode_16_bit_png(file: BinaryIO, image: Image.Image, *, max_pixels: int) -> np.ndarray:
    """Decode a PNG with 16 bits per sample to uint16 (H, W, 1 or 3), as stored and without alpha.

    Raises:
        Exception: of almost any type, if the file is damaged.
    """
    _check_complete(file, image)
    channels = str(image.tile[0].args).partition(";")[0]
    with pillow_limit(max_pixels):
        if channels == "I":
            return np.asarray(image).astype(np.uint16)[..., None]
        if channels == "LA":  # decode as four bytes: high and low byte of grey, high and low byte of alpha
            high_low = _reopened(file, "RGBA")[..., :2].astype(np.uint16)
            return high_low[..., :1] << 8 | high_low[..., 1:]
        # Pillow's big-endian mode keeps the first byte of each sample, its little-endian mode the second.
        values = _reopened(file, f"{channels};16B")[..., :3].astype(np.uint16) << 8
        values |= _reopened(file, f"{channels};16L")[..., :3]
        return values


def to_channels(pixels: Tensor, channels: int) -> Tensor:
    """Convert uint8 pixels (N, H, W) to C channels: repeat a single one, or reduce RGB to grey.

    Grey is Pillow's: 0.299 R + 0.587 G + 0.114 B (ITU-R 601), computed in whole numbers.
    """
    if channels == 1 and len(pixels) == 3:
        red, green, blue = pixels.int()
        weighted = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + (1 << 15)
        return weighted.bitwise_right_shift_(16).to(torch.uint8)[None]
    return pixels.expand(channels, -1, -1)


def displayed(pixels: Tensor, orientation: int) -> Tensor:
    """Rotate and flip stored pixels (C, H, W) according to the EXIF orientation."""
    rotated = pixels.transpose(1, 2) if swaps_sides(orientation) else pixels
    return rotated.flip(FLIPS[orientation])


def stored(pixels: Tensor, orientation: int) -> Tensor:
    """Undo `displayed`."""
    flipped = pixels.flip(FLIPS[orientation])
    return flipped.transpose(1, 2) if swaps_sides(orientation) else flipped


def _decode_with_pillow(file: BinaryIO, image: Image.Image, orientation: int, max_pixels: int, *, grey: bool) -> Tensor:
    _check_complete(file, image)
    with pillow_limit(max_pixels):
        values = np.atleast_3d(np.array(image.convert("L" if grey else "RGB")))
    pixels = torch.from_numpy(values).permute(2, 0, 1)
    return pixels if image.format == "TIFF" else displayed(pixels, orientation)  # Pillow rotates TIFF itself


def _check_complete(file: BinaryIO, image: Image.Image) -> None:
    if check := {"JPEG": check_jpeg, "MPO": check_jpeg, "PNG": check_png}.get(image.format or ""):
        file.seek(0)
        check(file.read())


def _reopened(file: BinaryIO, raw_mode: str) -> np.ndarray:
    """Decode a PNG, interpreting its rows in a given raw mode of Pillow."""
    file.seek(0)
    image = Image.open(file, formats=("PNG",))
    (tile,) = image.tile
    image.tile = [tile._replace(args=raw_mode)]
    return np.asarray(image)
