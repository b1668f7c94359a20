"""Recognise video files by their names, or else by their content, and check that they can be read."""

import importlib.util
import os

from retinanet.errors import InputError
from retinanet.formats.image_paths.listing import is_image_name
from retinanet.formats.images.file_kinds import START, is_video_content

# Not .ts, which is also the suffix of TypeScript.
VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .mts .m2ts".split())


def is_video_name(name: str) -> bool:
    """Return whether a file name has the suffix of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def is_video(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a video, by its suffix if that is known, otherwise by its first bytes."""
    name = os.fspath(path)
    if is_image_name(name) or is_video_name(name):
        return is_video_name(name)
    try:
        with open(path, "rb") as file:
            return is_video_content(file.read(START))
    except OSError:
        return False


def check_videos_can_be_read(path: str | os.PathLike[str]) -> None:
    """Check that the package that reads videos is installed; `path` is for the message.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("av") is None:
        raise InputError(
            f"{path}: is a video, and reading videos needs the package PyAV; install it with pip install "
            '"retinanet[video]", or pass only images'
        )
