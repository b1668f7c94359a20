"""Run the commands of a documentation page in a folder with the files that the page assumes."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from retinanet.__main__ import main as retinanet
from retinanet.ablation import imbalance
from retinanet.data.synthetic.__main__ import main as write_synthetic
from retinanet.data.synthetic.shapes import write_shapes
from tests.helpers.processes import RETINANET, Program, run_together

SHORT_RUN = [
    "train.steps=2",
    "train.epochs=null",
    "data.workers=0",
    "device=cpu",
    # oneDNN's bfloat16 convolutions of the smallest feature maps may read uninitialised memory.
    "train.precision=fp32",
    "inference.precision=fp32",
]
# Appended only if the command does not set the key itself.
SMALL = [
    "data.resize.shorter=64",
    "data.resize.longer=96",
    "model.backbone.name=resnet10_half",
    "model.backbone.weights=none",  # otherwise downloaded
    "model.backbone.norm=batch",
    "model.backbone.frozen_stages=0",
    "model.channels=64",
    "model.head_convs=1",
    "train.batch_size=2",
    "train.save_every=1",
]
# The rows to train, which must stay different, and what makes their networks small.
TABLE_ROWS = {"1b": ["gamma 0", "gamma 2"], "1e": ["18-64", "34-64"]}
TABLE_OVERRIDES = {"1b": ["model.backbone.name=resnet10_half"], "1e": []}
NUM_TRAIN, NUM_VAL = 8, 4


def make_workplace(folder: Path) -> None:
    """Create the files that the pages assume.

    The bundled dataset is in `datasets/shapes` and a run on it in `runs/quickstart`. `my` contains the user's images;
    car, truck and bus are three of their six classes.
    """
    write_shapes(folder / "datasets" / "shapes", num_train=NUM_TRAIN, num_val=NUM_VAL, progress=False)
    shutil.copytree(folder / "datasets" / "shapes", folder / "my")
    shutil.copytree(folder / "my" / "val", folder / "my" / "photos")
    for part in ("train", "val"):
        file = folder / "my" / f"{part}.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        for category, name in zip(content["categories"], ["car", "truck", "bus"], strict=False):
            category["name"] = name
        file.write_text(json.dumps(content), encoding="utf-8")
    arguments = short_form(["retinanet", "train", "quickstart", "--output", "runs/quickstart"])[1:]
    training = Program(RETINANET, arguments, folder=folder)
    assert training.wait(timeout=300) == 0, training.errors()


def copy_workplace(workplace: Path, folder: Path) -> None:
    """Copy a workplace into an existing folder. Checkpoints become hard links: they are large and never modified."""

    def link_or_copy(source: str, target: str) -> None:
        (os.link if source.endswith(".pt") else shutil.copy2)(source, target)

    shutil.copytree(workplace, folder, symlinks=True, dirs_exist_ok=True, copy_function=link_or_copy)


def short_form(words: list[str]) -> list[str]:
    """Append arguments to a documented command that make it short.

    Raises:
        AssertionError: it cannot be made short.
    """
    match words:
        case ["torchrun", *_] if "-m" in words:
            inner = words[words.index("-m") + 1 :]
            extra = short_form(inner)[len(inner) :]
        case ["retinanet", "train", config, *_] if config == "--data" or not config.startswith("-"):
            extra = tiny_overrides(words)
        case (
            ["retinanet", "train", "--resume", *_] | ["retinanet", "eval", *_] | ["retinanet", "ablate", "figures", *_]
        ):
            extra = []  # the run or the checkpoint contains the config, which is already short
        case ["retinanet", "check" | "convert" | "report" | "browse" | "publish", *_]:
            extra = []
        case ["retinanet", "predict", *_]:
            extra = ["--batch-size", "2"]
        case ["retinanet", "export", *_]:
            extra = ["postprocess.min_score=0.001"]  # an untrained network finds nothing with a higher score
        case ["retinanet", "ablate", "demo", *_]:
            extra = ["--seeds", "1"]
        case ["retinanet", "ablate", table, *_] if table in TABLE_ROWS:
            overrides = [*SHORT_RUN, "train.batch_size=2", *TABLE_OVERRIDES[table]]
            extra = [*overrides, "--seeds", "1", "--rows", *TABLE_ROWS[table]]
        case ["python", "-m", "retinanet.data.synthetic", _]:
            extra = ["--train", str(NUM_TRAIN), "--val", str(NUM_VAL)]
        case ["source", "scripts/environment.sh" | ".venv/bin/activate", *_]:
            extra = []
        case _:
            raise AssertionError(
                f"no short form of {' '.join(words)}; add one here, or explain in a comment why it is not run"
            )
    return [*words, *extra]


def tiny_overrides(words: list[str]) -> list[str]:
    documented = {word.partition("=")[0] for word in words}
    return [*SHORT_RUN, *(override for override in SMALL if override.partition("=")[0] not in documented)]


def run_command(words: list[str]) -> None:
    """Run the short form of a documented command in the current folder, and the workers of torchrun without torchrun.

    Raises:
        AssertionError: the command has no short form, or it failed.
    """
    match short_form(words):
        case ["retinanet", *arguments]:
            with pytest.MonkeyPatch.context() as patch:
                # The demo has no options for its size.
                patch.setattr(imbalance, "train_one", partial(imbalance.train_one, num_rare=4, steps=30, batch=256))
                code = retinanet(arguments)
        case ["python", "-m", "retinanet.data.synthetic", folder, *options]:
            shutil.rmtree(folder, ignore_errors=True)  # otherwise, there would be nothing to do
            code = write_synthetic([folder, *options])
        case ["torchrun", *arguments]:
            options = get_args_parser().parse_args(arguments)
            assert options.standalone and options.module and options.training_script == "retinanet"
            run_together(int(options.nproc_per_node), RETINANET, options.training_script_args)
            code = 0
        case _:
            code = 0  # the tests already run in such an environment
    assert code == 0, f"exit code {code}: {' '.join(words)}"


def files_read(words: list[str]) -> Iterator[Path]:
    """Files and folders that a documented command reads."""
    written = files_written(words)
    for word in words[2:]:
        path = Path(word.partition("=")[2] or word)
        if len(path.parts) > 1 and path not in written:
            yield path


def files_written(words: list[str]) -> list[Path]:
    """Folders and files that a documented command writes."""
    options = ("--output", "--page", "retinanet.data.synthetic")
    return [Path(word) for option, word in itertools.pairwise(words) if option in options]


def interrupt(run: Path) -> Path:
    """Remove the newest checkpoint of a run, as if it had been killed before that step, and return the path."""
    newest = max((run / "checkpoints").glob("step_*.pt"))
    newest.unlink()
    newest.with_name(newest.name + ".sha256").unlink()
    return newest
