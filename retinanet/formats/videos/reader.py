"""Read the frames of a video one by one with PyAV, in memory that does not grow with its length."""

import math
import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from retinanet.errors import InputError
from retinanet.formats.videos.display import displayed
from retinanet.formats.videos.names import check_videos_can_be_read

if TYPE_CHECKING:  # an optional package
    import av

MAX_PIXELS = 100_000_000  # the default of data.max_pixels
# FFmpeg supports more, but some formats are playlists that name other files or addresses.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,h264,hevc,m4v"
# Share of the sampling interval by which a frame may be early. Matroska rounds times to milliseconds.
EARLY = Fraction(1, 10)
MISSING = 0.5  # seconds that may be missing at the end of a video that does not count as truncated


class VideoFrame(NamedTuple):
    """A frame of a video as displayed."""

    number: int  # in presentation order, counted from 0 in the whole video
    time: float  # seconds after the first frame
    image: Tensor  # (3, H, W) RGB uint8


class Video:
    """The frames of a video file. Each iteration decodes them from the beginning; `open_video` describes the arguments.

    Attributes:
        path: path of the file.
        size: (height, width) of the frames as displayed.
        time_base: unit of the times of frames in the file, in seconds.
        frame_rate: average number of frames per second in the file; 25 if it is unknown.
        num_frames: number of frames that iterating yields, estimated from the header; None if it is unknown.
    """

    def __init__(self, path: str | os.PathLike[str], *, frames_per_second: float | None, max_pixels: int):
        self.path = path
        self._frames_per_second = None if frames_per_second is None else Fraction(frames_per_second)
        with self._opened() as (container, stream):
            height, width = stream.codec_context.height, stream.codec_context.width
            if height * width > max_pixels:
                raise InputError(
                    f"{path}: its frames have {height * width} pixels ({width} x {height}), expected at most "
                    f"{max_pixels}; shrink the video or raise data.max_pixels"
                )
            self._stored_size = height, width
            self.frame_rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.time_base: Fraction = stream.time_base or 1 / self.frame_rate
            self._declared_duration = _declared_duration(stream)
            duration = None if container.duration is None else container.duration / 1_000_000
            self.num_frames = self._expected_frames(stream.frames, duration)
            first = next(self._decoded(container, stream), None)
            if first is None:
                raise InputError(f"{path}: contains no frames, expected a video; copy or download the file again")
            # Read once: in PyAV, a frame whose side data was read stays in memory until the garbage collector runs.
            self._matrix = _display_matrix(first)
            self.size: tuple[int, int] = tuple(self._pixels(first).shape[-2:])  # type: ignore[assignment]

    def __iter__(self) -> Iterator[VideoFrame]:
        return self.frames()

    def frames(self, *, skip: int = 0) -> Generator[VideoFrame]:
        """Yield the frames without the first `skip` ones, which are decoded but not converted.

        Raises:
            InputError: the file is damaged, after the frames before the damage, or the size of the frames changes.
        """
        first_time: Fraction | None = None
        end = Fraction(0)
        interval = used = 0  # index of the next sampling interval without a frame; number of used frames
        with self._opened() as (container, stream):
            for number, frame in enumerate(self._decoded(container, stream)):
                unit = frame.time_base or self.time_base
                moment = number / self.frame_rate if frame.pts is None else frame.pts * unit
                first_time = moment if first_time is None else first_time
                time = moment - first_time
                end = time + ((frame.duration or 0) * unit or 1 / self.frame_rate)
                if self._frames_per_second is not None:
                    position = math.floor(time * self._frames_per_second + EARLY)
                    if position < interval:
                        continue
                    interval = position + 1
                used += 1
                if used > skip:
                    yield VideoFrame(number, float(time), self._pixels(frame))
        if self._declared_duration is not None and self._declared_duration - end > MISSING:
            raise self._damaged(number + 1, f"it ends {float(self._declared_duration - end):.2g} s too early")

    def _pixels(self, frame: "av.VideoFrame") -> Tensor:
        """The frame as displayed, (3, H, W) RGB uint8."""
        stored = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
        return (stored if self._matrix is None else displayed(stored, self._matrix)).contiguous()

    def _expected_frames(self, declared: int, duration: float | None) -> int | None:
        in_file = declared or (None if duration is None else round(duration * self.frame_rate))
        if in_file is None or self._frames_per_second is None:
            return in_file
        return min(in_file, math.ceil(in_file / self.frame_rate * self._frames_per_second))

    @contextmanager
    def _opened(self) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
        check_videos_can_be_read(self.path)
        import av

        try:
            # FFmpeg would treat some paths as addresses; a file object is always a local file.
            with open(self.path, "rb") as file, av.open(file, options={"format_whitelist": FORMATS}) as container:
                stream = container.streams.best("video")
                if not isinstance(stream, av.VideoStream):
                    raise InputError(f"{self.path}: contains no video, only other streams; choose another file")
                yield container, stream
        except av.error.FFmpegError as error:
            raise InputError(
                f"{self.path}: not a video, or its header is damaged ({_reason(error)}), expected MP4, QuickTime, "
                "Matroska, WebM, AVI, MPEG, WMV, FLV or Ogg; convert the file or download it again"
            ) from error
        except OSError as error:  # missing file, folder, or no permission
            reason = error.strerror or error
            raise InputError(
                f"{self.path}: {reason}, expected a readable video; correct the path or restore the file"
            ) from None

    def _decoded(self, container: "av.container.InputContainer", stream: "av.VideoStream") -> "Iterator[av.VideoFrame]":
        """Yield the frames before any damage in presentation order, then raise `InputError` if there is damage."""
        import av

        number = 0
        try:
            for packet in container.demux(stream):
                is_damaged = packet.is_corrupt
                for frame in stream.codec_context.decode(None) if is_damaged else packet.decode():
                    if frame.is_corrupt:
                        raise self._damaged(number, "the next frame is incomplete")
                    if (frame.height, frame.width) != self._stored_size:
                        height, width = self._stored_size
                        raise InputError(
                            f"{self.path}: frame {number} is {frame.width} x {frame.height}, expected {width} x "
                            f"{height}, as the frames before it; convert the video to one size, for example with ffmpeg"
                        )
                    yield frame
                    number += 1
                if is_damaged:
                    raise self._damaged(number, "the file ends within a frame, or part of it is missing")
        except (av.error.FFmpegError, OSError) as error:
            raise self._damaged(number, _reason(error)) from error

    def _damaged(self, number: int, reason: str) -> InputError:
        return InputError(
            f"{self.path}: damaged or truncated after {number} frames ({reason}), expected a video that decodes "
            "completely; copy or download the file again"
        )


def open_video(
    path: str | os.PathLike[str], *, frames_per_second: float | None = None, max_pixels: int = MAX_PIXELS
) -> Video:
    """Open a video, whose frames can be passed to `Predictor.predict`, and read its header.

    Frames are decoded while iterating, so that the memory does not depend on the length of the video. They are rotated
    as the file says. Transparency is ignored, and pixels are not stretched if they are not square.

    Args:
        frames_per_second: use the first frame in each interval of this length; None: use every frame.
        max_pixels: videos whose frames have more pixels are rejected, before memory is allocated.

    Raises:
        InputError: the file is not a usable video, or the package PyAV is missing.
    """
    if frames_per_second is not None and not 0 < frames_per_second < math.inf:
        raise InputError(f"frames_per_second: found {frames_per_second}, expected a number above 0")
    return Video(path, frames_per_second=frames_per_second, max_pixels=max_pixels)


def _display_matrix(frame: "av.VideoFrame") -> list[int] | None:
    """The display matrix of a frame, see `displayed`; None if the frame is displayed as stored."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(data, np.int32).tolist()


def _declared_duration(stream: "av.VideoStream") -> float | None:
    """Duration of the video in seconds, where a Matroska file has a tag with it; other headers are less exact."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    return None if found is None else int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
