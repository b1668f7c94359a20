"""Train a detector from a config file."""

import argparse
import sys
from pathlib import Path

from retinanet.config_file import config_to_yaml, load_config
from retinanet.engine.train import train
from retinanet.errors import exit_code


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="retinanet train",
        description=__doc__,
        epilog="example: retinanet train bccd_r18 --output runs/cells train.epochs=12 data.train.images=my/pictures",
    )
    result.add_argument(
        "config", help="a YAML file, or the name of a config that the package ships, such as quickstart"
    )
    result.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="changes one key of the config: train.epochs=3"
    )
    result.add_argument("--output", type=Path, metavar="DIR", help="run folder (default: runs/NAME-OF-CONFIG)")
    result.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the run folder")
    result.add_argument("--overwrite", action="store_true", help="delete the run that the folder holds, and start anew")
    result.add_argument("--print-config", action="store_true", help="print every value, defaults included, and stop")
    return result


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_intermixed_args(argv)

    def run() -> None:
        cfg = load_config(arguments.config, arguments.overrides)
        if arguments.print_config:
            print(config_to_yaml(cfg), end="")
            return
        output = arguments.output or Path("runs") / Path(arguments.config).name.removesuffix(".yaml")
        result = train(cfg, output, resume=arguments.resume, overwrite=arguments.overwrite)
        print(f"trained {result.step} steps; checkpoints are in {result.folder / 'checkpoints'}")

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
