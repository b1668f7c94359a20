"""Read the state dict in a file of weights: safetensors, torch.save, or a pickle of NumPy arrays."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from retinanet.checkpoint.wrappers import without_prefixes
from retinanet.errors import InputError, first_line
from retinanet.interop.array_pickle import ArrayUnpickler, RefusedPickle

SAFETENSORS = b"\0\0{"  # from byte 6: the end of the length of the header, which is below 2^48, and its first byte
ZIP = b"PK\3\4"  # first bytes of a file written by torch.save
PICKLE = b"\x80"  # first byte of a pickle in protocol 2 or later
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first object in a file written by torch.save before torch 1.6
# Where training programs keep the state dict of the model in their checkpoints.
PLACES = ("state_dict", "model", "model_state_dict", "model_state", "net", "weights")


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """The content of a file of weights."""

    path: Path
    state: dict[str, Tensor]  # float32, on the CPU; names without the prefixes of wrappers
    others: dict[str, Any] = field(default_factory=dict)  # what the file contains besides the state dict


def read_weight_file(path: Path) -> WeightFile:
    """Read the state dict in a file, without executing code from it.

    The format is recognised from the content. A checkpoint of a training program is searched for the state dict.

    Raises:
        InputError: the file is missing, damaged or in another format, refers to code, or contains no state dict.
    """
    content = _read(path)
    others: dict[str, Any] = {}
    state = content
    if not _is_state(content):
        place = next((name for name in PLACES if _is_state(content.get(name))), None)
        if place is None:
            raise InputError(
                f"{path}: contains no state dict: found {_described(content)}, expected names of tensors, alone or as "
                f"one of {', '.join(PLACES[:3])}; save one with torch.save(model.state_dict(), FILE)"
            )
        others = {name: value for name, value in content.items() if name != place}
        state = content[place]
    try:
        tensors = {name: _tensor(value) for name, value in state.items() if isinstance(value, Tensor | np.ndarray)}
    except TypeError as error:  # arrays of objects
        raise InputError(f"{path}: contains arrays that are not numbers: {first_line(error)}") from None
    return WeightFile(path=path, state=without_prefixes(tensors, source=str(path)), others=others)


def _read(path: Path) -> Mapping[str, Any]:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file of weights; pass a file in it")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
            file.seek(0)
            if start[6:] == SAFETENSORS:
                content: Any = load_file(path)
            elif start[:4] == ZIP:
                content = torch.load(file, map_location="cpu", weights_only=True)
            elif start[:1] == PICKLE:
                content = ArrayUnpickler(file).load()
                if content == TORCH_MAGIC:
                    file.seek(0)
                    content = torch.load(file, map_location="cpu", weights_only=True)
            else:
                raise InputError(
                    f"{path}: not a file of weights; expected safetensors, a file written by torch.save, or a pickle "
                    "of NumPy arrays"
                )
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; pass another file") from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # each reader raises many different types, depending on what is wrong with the file
        if refused := _refused(error):
            raise InputError(
                f"{path}: {refused}; refused to load it; no code was executed; save the tensors alone, with "
                "torch.save(model.state_dict(), FILE)"
            ) from None
        raise InputError(f"{path}: damaged, or not a file of weights: {first_line(error)}; pass another file") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: contains no state dict, but {type(content).__name__}; pass another file")
    return content


def _refused(error: Exception) -> str | None:
    """What a reader refused to load; None for other errors. The rest of torch's message is unsafe advice."""
    if isinstance(error, RefusedPickle):
        return str(error)
    unsafe = re.search(r"GLOBAL (\S+)", str(error))
    return f"it refers to {unsafe[1]}, but only tensors are read" if unsafe else None


def _is_state(value: Any) -> bool:
    """Whether a value maps names to tensors; numbers, such as counters, may be among them."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return False
    kinds = [isinstance(entry, Tensor | np.ndarray) for entry in value.values()]
    return any(kinds) and all(
        is_array or isinstance(entry, int | float | np.number)
        for is_array, entry in zip(kinds, value.values(), strict=True)
    )


def _tensor(value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, np.ndarray):  # copied into writable memory, with bytes in this machine's order
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    return value.float() if value.is_floating_point() else value


def _described(content: Mapping[str, Any]) -> str:
    names = [str(name) for name in content]
    return f"{len(names)} entries ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
