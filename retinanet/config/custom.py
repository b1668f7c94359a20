"""`custom`: the parts of a run that were passed in Python, by name, and the sections that they replace."""

import functools
import sys
from pathlib import Path
from typing import Any

from retinanet.config.base import StrictModel
from retinanet.errors import InputError


class CustomConfig(StrictModel):
    """Parts that were passed to `retinanet.train` in Python. A run records their names here; do not set these keys.

    The sections that a part replaces are omitted from the recorded config, because they have no effect.
    """

    model: str | None = None
    """Class of the model; it replaces the section `model`, except `in_channels`, `mean` and `std` of images that are
    not RGB."""
    class_loss: str | None = None
    """Class or function of the class loss; it replaces `loss.classification`."""
    loss: str | None = None
    """Class or function of the whole loss; it replaces the section `loss`."""
    train_data: str | None = None
    """Class of the training set; it replaces `data.train`."""
    val_data: str | None = None
    """Class of the validation set; it replaces `data.val`."""

    @property
    def described(self) -> tuple[str, ...]:
        """Kind and name of each part, such as "model my_module.IoUNet"; empty without custom parts."""
        return tuple(f"{_kind(key)} {name}" for key, name in self.model_dump().items() if name is not None)

    @property
    def replaced(self) -> tuple[str, ...]:
        """Keys of the config that have no effect, such as "model"."""
        sections = {
            "model": "model",
            "class_loss": "loss.classification",
            "loss": "loss",
            "train_data": "data.train",
            "val_data": "data.val",
        }
        return tuple(sections[key] for key, name in self.model_dump().items() if name is not None)


def part_name(part: Any) -> str:
    """Name of a custom part: the module and name of its class or, for a function, of the function itself.

    A class in the script that is being run is named after the script, so that the name stays the same when another
    program imports it.
    """
    while isinstance(part, functools.partial):
        part = part.func
    named = part if isinstance(part, type) or hasattr(part, "__qualname__") else type(part)
    module = named.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec else Path(file).stem if file else module
    return f"{module}.{named.__qualname__}"


def check_part(key: str, recorded: str | None, part: str | None, *, source: str, how: str) -> None:
    """Check that a part was passed if and only if a run used one.

    Args:
        key: key of `CustomConfig`.
        recorded: name of the part that the run used; None for a part of this package.
        part: name of the part that was passed; None if there is none.
        source: checkpoint or config of the run, for the message.
        how: how to pass a part, such as "Predictor.from_checkpoint(..., model=...)".

    Raises:
        InputError: a part is missing, or was not expected.
    """
    if recorded is not None and part is None:
        raise InputError(f"{source}: uses a custom {_kind(key)}, {recorded}; pass it in Python: {how}")
    if recorded is None and part is not None:
        raise InputError(f"{source}: uses no custom {_kind(key)}, but {part} was passed; remove it")


def _kind(key: str) -> str:
    names = {"class_loss": "class loss", "train_data": "training set", "val_data": "validation set"}
    return names.get(key, key)
