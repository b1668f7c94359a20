"""Write a detector as a file of weights that another framework reads."""

import os
import pickle
from pathlib import Path
from typing import Literal

import torch

from retinanet.checkpoint.file import Checkpoint, sync, sync_folder
from retinanet.checkpoint.save import partial_file
from retinanet.errors import InputError, make_folder
from retinanet.interop.detectron2 import export_detectron2
from retinanet.interop.published_config import check_export_file
from retinanet.interop.torchvision import export_torchvision

Framework = Literal["torchvision", "detectron2"]


def write_export(file: Path, checkpoint: Checkpoint, framework: Framework) -> None:
    """Write the weights that evaluation uses, as a state dict of another framework.

    torchvision's is written by torch.save. Detectron2's is written by torch.save below the key `model`, or, with the
    suffix `.pkl`, as a pickle of NumPy arrays like those of its model zoo. Both programs read these without options.

    Raises:
        InputError: the framework cannot represent the detector, or the file exists or cannot be written.
    """
    check_export_file(file, framework)
    state = export_torchvision(checkpoint) if framework == "torchvision" else export_detectron2(checkpoint)
    make_folder(file.parent)
    partial = partial_file(file)
    try:
        with open(partial, "wb") as opened:
            if framework == "torchvision":
                torch.save(state, opened)
            elif file.suffix == ".pkl":
                arrays = {name: value.numpy() for name, value in state.items()}
                # Without an author, Detectron2 assumes that a pickle is from Caffe2, and renames its tensors.
                pickle.dump({"model": arrays, "__author__": "retinanet"}, opened, protocol=2)
            else:
                torch.save({"model": state}, opened)
            sync(opened)
        os.replace(partial, file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror or error}; free disk space") from None
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(file.parent)
