"""Published folder: the weights of a detector, its config and its model card, in a form to share.

Its weights are a safetensors file, from which no code can run. Unlike a checkpoint, it has no optimizer state, so
training cannot be resumed from it.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from retinanet import __version__
from retinanet.checkpoint.file import Checkpoint, file_checksum, read_checkpoint, sync, sync_folder
from retinanet.config.public import public_config
from retinanet.errors import InputError
from retinanet.formats.convert import new_folder
from retinanet.interop.published_config import (
    CARD_FILE,
    CONFIG_FILE,
    FORMAT,
    WEIGHTS_FILE,
    PublishedConfig,
    check_publishable,
    is_published,
    read_published_config,
)


def write_published(folder: Path, checkpoint: Checkpoint, *, card: str, overwrite: bool = False) -> None:
    """Write the weights that evaluation uses, the config without paths, and a model card, as one new folder.

    The folder gets its name once it is complete on disk and its weights can be read back.

    Args:
        card: content of the model card.
        overwrite: replace an existing published folder.

    Raises:
        InputError: the folder exists, or cannot be written.
    """
    check_publishable(folder, overwrite=overwrite)
    # Tensors must not share memory, nor be in another memory format, such as channels_last.
    weights = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in checkpoint.weights().items()
    }
    content = save(weights, metadata={"format": "pt"})  # expected by other programs that read such files
    description = PublishedConfig(
        format=FORMAT,
        retinanet=__version__,
        class_names=checkpoint.class_names,
        category_ids=checkpoint.category_ids,
        thresholds=checkpoint.thresholds,
        step=checkpoint.step,
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        config=public_config(checkpoint.config),
    )
    values = json.dumps(json.loads(description.model_dump_json()), indent=2, ensure_ascii=False) + "\n"
    try:
        with new_folder(folder, replace=overwrite) as partial:
            for name, data in ((WEIGHTS_FILE, content), (CONFIG_FILE, values.encode()), (CARD_FILE, card.encode())):
                with open(partial / name, "wb") as file:
                    file.write(data)
                    sync(file)
            read_published(partial)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}; free disk space") from None
    sync_folder(folder.resolve().parent)


def read_published(folder: Path) -> Checkpoint:
    """Read a published folder as a checkpoint without optimizer state, on the CPU. Never executes code from it.

    Raises:
        InputError: a file is missing, was truncated or changed, or is in another format.
    """
    description = read_published_config(folder)
    file = folder / WEIGHTS_FILE
    advice = "publish the model or download the folder again"
    try:
        size = file.stat().st_size
        if size != description.num_bytes:
            kind = "truncated" if size < description.num_bytes else "changed"
            raise InputError(f"{file}: damaged: {kind}: found {size} bytes, expected {description.num_bytes}; {advice}")
        if file_checksum(file) != description.sha256:
            raise InputError(f"{file}: damaged: its checksum differs from the one in {CONFIG_FILE}; {advice}")
        weights: dict[str, Tensor] = load_file(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}; {advice}") from None
    except SafetensorError as error:
        raise InputError(f"{file}: not a safetensors file: {error}; {advice}") from None
    return Checkpoint(
        config=description.config,
        class_names=description.class_names,
        category_ids=description.category_ids,
        step=description.step,
        state={"model": weights},
        thresholds=description.thresholds,
    )


def read_model(path: str | Path) -> Checkpoint:
    """Read a checkpoint file or a published folder.

    Raises:
        InputError: see `read_checkpoint` and `read_published`.
    """
    if isinstance(path, str | os.PathLike) and is_published(Path(path)):
        return read_published(Path(path))
    return read_checkpoint(path)
