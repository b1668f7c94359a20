"""Run the commands of a documentation page in a folder with the files that the page assumes."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from retinanet.__main__ import main as retinanet
from retinanet.data.synthetic.__main__ import main as write_synthetic
from retinanet.data.synthetic.shapes import write_shapes
from tests.helpers.processes import ENVIRONMENT

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
    "model.backbone.name=resnet18",
    "model.backbone.weights=none",  # otherwise downloaded
    "model.backbone.norm=batch",
    "model.backbone.frozen_stages=0",
    "model.channels=64",
    "model.head_convs=1",
    "train.batch_size=2",
    "train.save_every=1",
]
TABLE_ROWS = {"1b": ["gamma 0", "gamma 2"], "1e": ["18-64", "34-64"]}  # the rows to train
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
    command = short_form(["retinanet", "train", "quickstart", "--output", "runs/quickstart"])
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


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
            extra = []  # the config comes from the run or the checkpoint, and is already short
        case ["retinanet", "check" | "convert", *_]:
            extra = []
        case ["retinanet", "predict", *_]:
            extra = ["--batch-size", "2"]
        case ["retinanet", "ablate", "demo", *_]:
            extra = ["--seeds", "1"]
        case ["retinanet", "ablate", table, *_] if table in TABLE_ROWS:
            # The networks and images of the rows are already small, and must stay different.
            extra = [*SHORT_RUN, "train.batch_size=2", "--seeds", "1", "--rows", *TABLE_ROWS[table]]
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
    """Run the short form of a documented command in the current folder.

    Raises:
        AssertionError: the command has no short form, or it failed.
    """
    match short_form(words):
        case ["retinanet", *arguments]:
            code = retinanet(arguments)
        case ["python", "-m", "retinanet.data.synthetic", folder, *options]:
            shutil.rmtree(folder, ignore_errors=True)  # otherwise, there would be nothing to do
            code = write_synthetic([folder, *options])
        case ["torchrun", *arguments]:
            command = [sys.executable, "-m", "torch.distributed.run", *arguments]
            code = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=False, timeout=300).returncode
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
