"""Read a trained detector in any form: published folder, hub id, checkpoint, or file of another framework."""

import os
from pathlib import Path

from retinanet.checkpoint.file import Checkpoint, read_checkpoint
from retinanet.checkpoint.header import is_checkpoint
from retinanet.errors import InputError
from retinanet.interop.detector import is_named, read_detector
from retinanet.interop.hub import download, is_hub_id
from retinanet.interop.published import read_published
from retinanet.interop.published_config import CONFIG_FILE, is_published


def read_pretrained(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Read a detector as a checkpoint, without executing code from it.

    Args:
        source: a published folder, the id of one on a hub, a checkpoint, or what `read_detector` accepts. An existing
            path takes precedence over an id.
        revision: branch, tag or commit on the hub; None: the default branch.

    Raises:
        InputError: the files are damaged, the download failed, or there is no detector.
    """
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"found {type(source).__name__}, expected a published folder or the id of one on a hub")
    text, path = os.fspath(source), Path(source)
    if is_hub_id(text) and not path.exists():
        path = download(text, revision=revision)
    elif revision is not None:
        raise InputError(f"{source}: revision is {revision!r}, but this is not an id on a hub; omit revision")
    if is_named(text) and not path.exists():
        return read_detector(text).checkpoint()
    if path.is_file():
        return read_checkpoint(path) if is_checkpoint(path) else read_detector(str(path)).checkpoint()
    if is_published(path) or not (path / CONFIG_FILE).is_file():
        return read_published(path)  # or report what is missing
    return read_detector(str(path)).checkpoint()  # a folder of another program
