"""Train a detector from a config file."""

import argparse
import tempfile
from pathlib import Path

from retinanet.cli.exit_codes import exit_code
from retinanet.config import Config
from retinanet.config.load import config_to_yaml, load_config
from retinanet.engine.dry_run import measure_run
from retinanet.engine.nonfinite.replay import replay
from retinanet.engine.train import train
from retinanet.errors import InputError
from retinanet.runtime.device import resolve_device
from retinanet.runtime.stop import EXIT_STOPPED

EXIT_DIVERGED = 1  # the run went to its end, but its loss exploded


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="retinanet train",
        description=__doc__,
        epilog="example: retinanet train quickstart --output runs/trial train.optimizer.lr=5e-4 train.seed=1",
    )
    result.add_argument("config", nargs="?", help="YAML file, or name of a bundled config, such as quickstart")
    result.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="set a config key: train.epochs=3")
    result.add_argument("--output", type=Path, metavar="DIR", help="run folder (default: runs/NAME-OF-CONFIG)")
    result.add_argument("--resume", action="store_true", help="resume from the last checkpoint in the run folder")
    result.add_argument("--overwrite", action="store_true", help="delete the run in the run folder and start again")
    result.add_argument(
        "--dry-run",
        action="store_true",
        help="run a few steps, report the time and memory that the run needs, and exit",
    )
    result.add_argument(
        "--replay", type=Path, metavar="FILE", help="replay a recorded step with non-finite gradients and diagnose it"
    )
    result.add_argument("--profile", action="store_true", help="profile a few training steps")
    result.add_argument("--print-config", action="store_true", help="print the config with all defaults and exit")
    return result


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_intermixed_args(argv)
    return exit_code(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    if arguments.replay:
        print(replay(arguments.replay, resolve_device("auto")).describe())
        return 0
    if arguments.config is None:
        raise InputError("no config; pass a YAML file or the name of a bundled config, such as quickstart")
    cfg = load_config(arguments.config, arguments.overrides)
    if arguments.print_config:
        print(config_to_yaml(cfg), end="")
        return 0
    if arguments.dry_run:
        if arguments.resume or arguments.overwrite or arguments.profile or arguments.output:
            raise InputError("--dry-run keeps nothing: remove --resume, --overwrite, --profile and --output")
        return dry_run(cfg)
    output = arguments.output or Path("runs") / Path(arguments.config).name.removesuffix(".yaml")
    result = train(cfg, output, resume=arguments.resume, overwrite=arguments.overwrite, profile=arguments.profile)
    if result.is_preempted:
        return EXIT_STOPPED
    return EXIT_DIVERGED if result.diverged else 0


def dry_run(cfg: Config) -> int:
    with tempfile.TemporaryDirectory() as folder:
        measured = measure_run(cfg, Path(folder))
    if measured is None:
        return EXIT_STOPPED
    print("dry run passed: a few steps, one checkpoint and one evaluation; nothing was kept")
    return 0
