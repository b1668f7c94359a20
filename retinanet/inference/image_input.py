"""Convert images that users pass to a `Predictor` to the pixels that the network sees."""

import os

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from retinanet.errors import InputError
from retinanet.formats.images.decode import to_channels
from retinanet.formats.videos.reader import VideoFrame

ImageInput = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor | VideoFrame


def as_pixels(image: Image.Image | np.ndarray | Tensor | VideoFrame, channels: int) -> Tensor:
    """Convert an image in memory to (channels, H, W) uint8. The EXIF orientation of a PIL image is applied.

    Raises:
        InputError: the image has another type or number of channels.
    """
    if isinstance(image, Image.Image):
        return _from_pil(image, channels)
    if isinstance(image, VideoFrame):
        if channels not in (1, 3):
            raise InputError(
                f"image is an RGB frame of a video, but model.in_channels is {channels}; pass a uint8 array (H, W, "
                f"{channels})"
            )
        return to_channels(image.image, channels)
    expected = "RGB uint8" if channels == 3 else "uint8"
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
            raise InputError(
                f"image is an array of {image.dtype} {image.shape}, expected {expected} (H, W, {channels})"
            )
        return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))  # a copy, since it may be read-only
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != channels or 0 in image.shape:
            raise InputError(
                f"image is {image.dtype} {tuple(image.shape)}, expected torch.uint8 ({channels}, H, W)"
                f"{', RGB' if channels == 3 else ''}"
            )
        return image
    article = "an" if channels == 3 else "a"
    raise InputError(
        f"image is {type(image).__name__}, expected a path, the bytes of a file, a PIL image, {article} {expected} "
        f"array (H, W, {channels}), {article} {expected} tensor ({channels}, H, W), or a frame of open_video"
    )


def _from_pil(image: Image.Image, channels: int) -> Tensor:
    if image.mode.startswith(("I", "F")):  # convert("RGB") would clip the values
        raise InputError(
            f"image is a PIL image of mode {image.mode}, expected 8 bits per channel; pass the path of its file, which "
            "is read with data.value_range"
        )
    if channels not in (1, 3):
        raise InputError(
            f"image is a PIL image of mode {image.mode}, but model.in_channels is {channels}; pass the path of its "
            f"file, or a uint8 array (H, W, {channels})"
        )
    upright = ImageOps.exif_transpose(image).convert("RGB" if channels == 3 else "L")
    return torch.from_numpy(np.atleast_3d(np.array(upright))).permute(2, 0, 1).contiguous()
