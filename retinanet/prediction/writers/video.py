"""Write frames as an MP4 file with H.264."""

from collections.abc import Iterable
from typing import IO

import numpy as np
from torch import Tensor

from retinanet.errors import InputError
from retinanet.formats.videos.reader import Video

ENCODER = "libx264"
# The encoded bytes depend on the number of threads. With `mbtree`, x264 reads memory that it has not initialised, so
# that they change from call to call. A lower CRF gives a better quality and a larger file.
OPTIONS = {"crf": "20", "preset": "veryfast", "threads": "4", "x264-params": "mbtree=0"}
BT_709, LIMITED_RANGE = 1, 1  # FFmpeg's numbers of the usual colours of a video


class NotDrawn(InputError):
    """A video cannot be written; its detections do not depend on that."""


def write_video(file: IO[bytes], video: Video, frames: Iterable[tuple[float, Tensor]]) -> None:
    """Write frames with their times, without sound.

    H.264 in the form that all players support has an even width and height: the last column or row is repeated.

    Args:
        video: the video that the frames are from, which has their size and frame rate.
        frames: seconds after the first frame, and (3, H, W) RGB uint8.

    Raises:
        NotDrawn: the frames cannot be encoded, or reading them raises `InputError`.
        OSError: the file cannot be written.
    """
    import av

    height, width = video.size
    try:
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream(ENCODER, rate=video.frame_rate, options=OPTIONS)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height = width + width % 2, height + height % 2
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.time_base = video.time_base
            context.colorspace = context.color_primaries = context.color_trc = BT_709
            context.color_range = LIMITED_RANGE
            last = -1
            for time, image in frames:
                pixels = np.pad(image.permute(1, 2, 0).numpy(), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                    format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
                )
                # Times must increase, which those of damaged files may not do.
                frame.pts = last = max(round(time / video.time_base), last + 1)
                frame.time_base = video.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        if isinstance(error.__context__, OSError):  # raised by `file`, such as on a full disk
            raise error.__context__ from None
        raise NotDrawn(
            f"{video.path}: its frames of {width} x {height} pixels, {float(video.frame_rate):g} per second, cannot be "
            f"encoded as H.264 ({error.strerror}), so it is not drawn; convert the video, for example with ffmpeg, or "
            "add --no-draw"
        ) from error
    except InputError as error:
        raise NotDrawn(f"{error}; the video is not drawn") from error


def check_encoder() -> None:
    """Check that the installed PyAV can write H.264.

    Raises:
        InputError: it cannot.
    """
    import av

    if ENCODER not in av.codecs_available:
        raise InputError(
            f"drawing on videos needs the encoder {ENCODER}, which the installed PyAV lacks; install PyAV with pip, or "
            "add --no-draw"
        )
