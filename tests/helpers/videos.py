"""Small video files, written with PyAV."""

import importlib.util
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

needs_pyav = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs PyAV, to write and read videos")
RATE = 25  # frames per second
# (a, b, c, d) of a display matrix, which shows the stored point (x, y) at (ax + cy, bx + dy).
UPRIGHT = (1, 0, 0, 1)
CLOCKWISE, HALF_TURN, COUNTERCLOCKWISE = (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)
MIRRORED = (-1, 0, 0, 1)


def noise_frames(number: int, *, height: int = 48, width: int = 64, seed: int = 0) -> list[np.ndarray]:
    """Frames of random pixels, (H, W, 3) uint8."""
    generator = np.random.default_rng(seed)
    return list(generator.integers(0, 256, (number, height, width, 3), dtype=np.uint8))


def write_video(
    file: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    unit: Fraction = Fraction(1, RATE),
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames, (H, W, 3) RGB or (H, W) grey, and return the file.

    Args:
        codec: `ffv1` with the pixels `bgr0` or `gray` is lossless.
        times: time of each frame, in multiples of `unit`; by default, 25 frames per second.
        options: of the file format, such as `{"movflags": "faststart"}`.
    """
    import av

    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = unit
        for number, values in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(values, format="gray" if values.ndim == 2 else "rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def rotate(file: Path, matrix: tuple[int, int, int, int]) -> None:
    """Change the display matrix of the only track in an MP4 file."""
    content = bytearray(file.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # after version and flags, times and duration, and the layer
    assert struct.unpack_from(">9i", content, at) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", content, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    file.write_bytes(content)


def cut(file: Path, share: float) -> None:
    """Keep only the first part of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
