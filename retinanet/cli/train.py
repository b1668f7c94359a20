"""Train a detector from a config file."""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from retinanet.cli.arguments import CommandParser, output_path
from retinanet.cli.interrupts import begin_work
from retinanet.cli.own_data import own_config
from retinanet.cli.process import exit_code
from retinanet.config import Config, DataSource
from retinanet.config.load import config_to_yaml, find_config, load_config
from retinanet.engine.run_files import CONFIG_FILE, Resume, check_folder, find_run, is_run_folder, started_in
from retinanet.errors import InputError
from retinanet.formats.sources import check_sources
from retinanet.runtime.console import escape_controls

AUTO = "auto"
NO_RUN = ""  # the value of --resume without a run
EXIT_DIVERGED = 1  # the run finished, but its loss diverged


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet train",
        description=__doc__,
        epilog="examples: retinanet train --data datasets/cells; "
        "retinanet train quickstart --output runs/trial train.optimizer.lr=5e-4 train.seed=1; "
        "retinanet train --resume runs/trial",
    )
    result.add_argument("config", nargs="?", help="YAML file, or name of a bundled config, such as quickstart")
    result.add_overrides("set a config key, such as train.epochs=3")
    result.add_argument(
        "--data",
        metavar="PATH",
        help="dataset folder or annotation file to train on; without CONFIG, the config is chosen to suit the dataset",
    )
    result.add_argument(
        "--output",
        type=output_path,
        metavar="DIR",
        help="run folder (default: runs/NAME-OF-CONFIG or runs/NAME-OF-DATASET, or the run folder that the config is "
        "in)",
    )
    result.add_argument(
        "--resume",
        nargs="?",
        const=NO_RUN,
        metavar="RUN",
        help="resume from the last checkpoint of a run folder, with its config unless another is given; RUN defaults "
        "to the run folder of this command; --resume=auto starts a new run if there is none to resume",
    )
    result.add_argument("--overwrite", action="store_true", help="delete the run in the run folder and start again")
    result.add_argument(
        "--dry-run",
        action="store_true",
        help="run a few steps, report the time and memory that the run would need, and exit",
    )
    result.add_argument(
        "--replay", type=Path, metavar="FILE", help="replay a recorded step with non-finite gradients and diagnose it"
    )
    result.add_argument("--profile", action="store_true", help="profile a few training steps")
    result.add_argument("--print-config", action="store_true", help="print the config with all defaults and exit")
    return result


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parser().parse(sys.argv[1:] if argv is None else argv)))


def run(arguments: argparse.Namespace) -> int:
    if arguments.replay:
        from retinanet.engine.nonfinite.replay import replay
        from retinanet.runtime.device import resolve_device

        begin_work()
        print(replay(arguments.replay, resolve_device("auto")).describe())
        return 0
    if arguments.data is not None:
        if arguments.resume is not None:
            raise InputError("--data starts a new run: remove --resume, or resume a run without --data")
        check_sources([DataSource(annotations=arguments.data)], key="--data")
        dataset = Path(arguments.data).resolve()
        name = dataset.name if dataset.is_dir() else dataset.stem
        start = Start(arguments.config, arguments.output or Path("runs") / name, False)
        cfg = own_config(arguments.data, arguments.config, arguments.overrides)
    else:
        start = what_to_start(arguments.config, arguments.output, arguments.resume)
        cfg = load_config(start.config, arguments.overrides)
    if cfg.custom.described and not arguments.print_config:
        raise InputError(
            f"{start.config}: the run uses custom parts ({', '.join(cfg.custom.described)}), which a command cannot "
            f"load; train or resume it in Python: retinanet.train(..., {str(start.folder)!r}, ..., resume=True)"
        )
    if arguments.print_config:
        print(config_to_yaml(cfg), end="")
        return 0
    cfg.model.require_statistics()
    if arguments.dry_run and (start.resume or arguments.overwrite or arguments.profile or arguments.output):
        raise InputError("--dry-run saves nothing: remove --resume, --overwrite, --profile and --output")
    # Under torchrun, another process may already have started the run.
    if not arguments.dry_run and "RANK" not in os.environ:
        check_folder(start.folder, resume=start.resume, overwrite=arguments.overwrite)
    for part in ("train", "val"):
        check_sources(getattr(cfg.data, part), key=f"data.{part}", started_in=started_in(start.folder))
    if arguments.dry_run:
        return dry_run(cfg)

    from retinanet.engine.setup import check_backbone
    from retinanet.engine.train import train
    from retinanet.runtime.stop import EXIT_STOPPED

    begin_work()
    check_backbone(cfg)  # `train` does this too, but reading the images may take long
    check_images_of(cfg, decode=False)
    result = train(cfg, start.folder, resume=start.resume, overwrite=arguments.overwrite, profile=arguments.profile)
    if result.is_preempted:
        return EXIT_STOPPED
    return EXIT_DIVERGED if result.diverged else 0


class Start(NamedTuple):
    """The run to start or resume: its config, its folder, and whether it is resumed."""

    config: str | Path | None
    folder: Path
    resume: Resume


def what_to_start(config: str | None, output: Path | None, resume: str | None) -> Start:
    """Find the config and the run folder that the arguments refer to.

    A config inside a run folder refers to that run. `--resume RUN` needs no config. `--resume CONFIG` is parsed as
    `CONFIG --resume`, because `--resume` may come before the config.

    Raises:
        InputError: the arguments name no run or config, or two different runs.
    """
    if resume not in (None, NO_RUN, AUTO):
        if config is None and is_config(resume):
            config, resume = resume, NO_RUN
        else:
            folder = find_run(Path(resume))
            check_same_folder(output, folder)
            return Start(config or folder / CONFIG_FILE, folder, True)
    if config is None and resume == NO_RUN and output is not None:
        folder = find_run(output)
        return Start(folder / CONFIG_FILE, folder, True)
    if config is None and resume == NO_RUN:
        raise InputError("--resume: no run; pass a run folder, such as --resume runs/quickstart")
    if config is None:
        raise InputError("no config; pass a YAML file or the name of a bundled config, such as quickstart")
    path = Path(config)
    if is_run_folder(path):
        raise InputError(f"{path}: is a run folder, expected a config; continue the run with --resume {path}")
    folder = output or Path("runs") / path.name.removesuffix(".yaml")
    if path.is_file() and is_run_folder(path.parent):
        if resume is not None:
            check_same_folder(output, path.parent)
        folder = output or path.parent
    return Start(config, folder, AUTO if resume == AUTO else resume is not None)


def is_config(path: str) -> bool:
    """Whether a path refers to a YAML file outside a run folder, or to a bundled config."""
    try:
        file = find_config(path)
    except InputError:
        return False
    return file.suffix in (".yaml", ".yml") and not is_run_folder(file.parent)


def check_same_folder(output: Path | None, run: Path) -> None:
    """Check that `--output`, if given, names the run to resume.

    Raises:
        InputError: `--output` names another folder.
    """
    if output is not None and output.resolve() != run.resolve():
        raise InputError(f"the run to resume is in {run}, but --output is {output}; remove --output")


def check_images_of(cfg: Config, *, decode: bool) -> None:
    """Print problems with the images of a run before it starts. Under torchrun, only the main process does this.

    Args:
        decode: decode all images instead of reading only their headers.

    Raises:
        InputError: training would fail.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    from retinanet.doctor.check import check_before_training

    for finding in check_before_training(cfg, decode=decode):
        print(escape_controls(f"{finding.severity}: {finding}"), flush=True)


def dry_run(cfg: Config) -> int:
    from retinanet.engine.dry_run import measure_run
    from retinanet.engine.setup import check_backbone
    from retinanet.runtime.stop import EXIT_STOPPED

    begin_work()
    check_backbone(cfg)
    check_images_of(cfg, decode=True)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure_run(cfg, Path(folder))
    if measured is None:
        return EXIT_STOPPED
    print("dry run passed: a few steps, one checkpoint and one evaluation; nothing was saved")
    return 0
