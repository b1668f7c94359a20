"""Find the checkpoint named on the command line, and check its config before importing torch."""

import os
from pathlib import Path

from retinanet.checkpoint.header import read_config
from retinanet.checkpoint.link import read_link
from retinanet.config import Config
from retinanet.config.load import with_overrides
from retinanet.engine.run_files import find_checkpoint, run_folder_of, started_in, with_paths_of_run
from retinanet.errors import InputError
from retinanet.formats.sources import check_sources
from retinanet.interop.published_config import is_published, read_published_config

HELP = "checkpoint, run folder (its best checkpoint if there is one, otherwise its last), or published folder"


def named_checkpoint(path: Path) -> Path:
    """Find the checkpoint that an argument refers to. If it is a folder, print which checkpoint was chosen.

    Raises:
        InputError: there is no such checkpoint.
    """
    found = find_checkpoint(path)
    if found != path and os.environ.get("RANK", "0") == "0":  # under torchrun, only the main process prints
        target = read_link(found)
        print(f"checkpoint: {found}" + (f" ({target})" if target else ""), flush=True)
    return found


def default_output(checkpoint: Path) -> Path | None:
    """The folder for results if none is given: that of the run; None for a published folder, which stays unchanged."""
    return None if is_published(checkpoint) else run_folder_of(checkpoint)


def check_early(checkpoint: Path, overrides: list[str], *, has_data: bool = True) -> Config | None:
    """Check the overrides, and that the validation set exists, before importing torch.

    Args:
        has_data: whether the command reads the validation set.

    Returns: the config with the overrides; None if the checkpoint has none that can be read early.

    Raises:
        InputError: an override is invalid, or the validation set does not exist.
    """
    is_folder = is_published(checkpoint)
    cfg = read_published_config(checkpoint).config if is_folder else read_config(checkpoint)
    if cfg is None:  # the command reports the problem when it loads the file
        return None
    cfg = with_overrides(cfg, overrides, source=f"{checkpoint} with overrides")
    needed = ["model=..."] if cfg.custom.model else []
    if has_data and (cfg.custom.class_loss or cfg.custom.loss):
        needed.append("loss=...")
    if has_data and cfg.custom.val_data and not cfg.data.has_validation:
        needed.append("dataset=...")
    if needed:
        call = "retinanet.evaluate" if has_data else "retinanet.Predictor.from_checkpoint"
        raise InputError(
            f"{checkpoint}: was trained with custom parts ({', '.join(cfg.custom.described)}), which a command cannot "
            f"load; use it in Python: {call}({str(checkpoint)!r}, {', '.join(needed)})"
        )
    if has_data:
        if is_folder and not cfg.data.has_validation:
            raise InputError(
                f"{checkpoint}: a published folder does not say where data is; add data.val=PATH, an annotation file "
                "or a dataset folder"
            )
        folder = run_folder_of(checkpoint)
        cfg = with_paths_of_run(cfg, folder)
        sources, key = (cfg.data.train, "data.train") if cfg.data.val_fraction else (cfg.data.val, "data.val")
        check_sources(sources, key=key, started_in=started_in(folder))
    return cfg
