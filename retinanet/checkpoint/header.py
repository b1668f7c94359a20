"""Recognise a checkpoint, and read its config, in milliseconds, without importing torch or loading tensors."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

from retinanet.checkpoint.link import follow_link
from retinanet.checkpoint.saved import checksum_file
from retinanet.config import Config
from retinanet.config.load import config_from_values
from retinanet.errors import InputError

MAX_BYTES = 100_000_000  # maximum size of the pickle, which contains everything except tensor data


def read_config(path: Path) -> Config | None:
    """Read only the config of a checkpoint, so that a command can check its arguments before it imports torch.

    Like `read_checkpoint`, this never executes code from the file. It does not verify checksums.

    Returns None if the file cannot be read this way; `read_checkpoint` then reports the problem.
    """
    content = _content(follow_link(path.resolve()))
    try:
        return config_from_values(json.loads(content["config"]), source=f"{path}: config")
    except InputError:
        raise
    except Exception:  # damaged files raise many types of exceptions
        return None


def _content(file: Path) -> Any:
    """What a file of `torch.save` contains, with placeholders for all but plain data; None if it cannot be read."""
    try:
        with zipfile.ZipFile(file) as archive:
            (record,) = [item for item in archive.infolist() if item.filename.endswith("/data.pkl")]
            if record.file_size > MAX_BYTES:
                return None
            with archive.open(record) as pickled:
                return _PlainUnpickler(pickled).load()
    except Exception:  # damaged files raise many types of exceptions
        return None


def is_checkpoint(path: Path) -> bool:
    """Whether a file says that it is a checkpoint of this package, of any version, or has the checksum of one.

    Other files of `torch.save`, such as state dicts, are not; nor is a checkpoint that is damaged and has no checksum.
    """
    file = follow_link(path.resolve())
    if checksum_file(file).is_file():
        return True
    content = _content(file)
    return isinstance(content, dict) and str(content.get("format")).startswith("retinanet checkpoint")


class _Placeholder:
    """Placeholder for every object that is not plain data, such as a tensor."""

    def __init__(self, *arguments: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler that resolves no names: every referenced object becomes a placeholder."""

    def find_class(self, module: str, name: str) -> Any:
        return _Placeholder

    def persistent_load(self, pid: Any) -> None:
        return None
