"""Compare the speed and memory use of this package with torchvision, pycocotools and bare convolutions."""

import argparse
import difflib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from retinanet.cli.arguments import CommandParser
from retinanet.cli.interrupts import begin_work
from retinanet.cli.process import exit_code
from retinanet.config.model import TorchvisionResNet
from retinanet.errors import InputError, make_folder

if TYPE_CHECKING:
    from retinanet.benchmarks.settings import Settings, SuiteResult

# Suite -> its module in retinanet.benchmarks, imported only when the suite runs.
SUITES = {
    "train_step": "train_step",
    "training": "training",
    "inference": "inference",
    "loss": "loss",
    "focal_loss": "focal_loss",
    "assignment": "assignment",
    "postprocess": "postprocess",
    "data": "data",
    "index": "annotation_index",
    "eval": "evaluation",
    "model": "model",
    "export": "export",  # last, because it is the only one that needs further packages and refuses a GPU
}
ALL = "all"
DEFAULT = ("train_step", "training", "inference", "loss", "assignment")


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet benchmark",
        description=f"{__doc__} Suites: {', '.join(SUITES)}; {ALL} runs them all.",
        epilog="Each round times every variant once. A ratio above 1 means that this package is better. "
        "example: retinanet benchmark train_step loss --rounds 10 --threads 2 --json speed.json",
    )
    result.add_argument(
        "suites",
        nargs="*",
        metavar="SUITE",
        default=list(DEFAULT),
        help=f"one or more of {', '.join([*SUITES, ALL])} (default: {' '.join(DEFAULT)})",
    )
    result.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="timed calls per variant (default: %(default)s)"
    )
    result.add_argument("--threads", type=int, metavar="N", help="torch threads (default: chosen by torch)")
    result.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or auto (default: %(default)s)")
    result.add_argument(
        "--precision",
        choices=("fp32", "bf16", "auto"),
        default="auto",
        help="precision of the networks (default: %(default)s)",
    )
    result.add_argument(
        "--size", type=height_and_width, metavar="HxW", help="size of padded images (default: depends on the suite)"
    )
    result.add_argument("--batch", type=int, metavar="B", help="batch size (default: depends on the suite)")
    result.add_argument("--classes", type=int, metavar="K", help="number of classes (default: depends on the suite)")
    result.add_argument(
        "--backbone", default="resnet50", metavar="NAME", help="backbone of the networks (default: %(default)s)"
    )
    result.add_argument("--compiled", action="store_true", help="also measure with torch.compile")
    result.add_argument(
        "--growth",
        action="store_true",
        help="also measure how time and memory grow with batch, image size, boxes or classes",
    )
    result.add_argument(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="workers in the training suite, and in a second run of the data suite (default: %(default)s)",
    )
    result.add_argument(
        "--images", type=Path, metavar="DIR", help="images for the data suite (default: synthetic images)"
    )
    result.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO annotations for --images or for the index suite",
    )
    result.add_argument("--json", type=Path, metavar="FILE", help="also write the ratios and details to a JSON file")
    return result


def height_and_width(text: str) -> tuple[int, int]:
    """Parse a size: "480x640" becomes (480, 640)."""
    height, by, width = text.lower().partition("x")
    if not (by and height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected HEIGHTxWIDTH in pixels, such as 480x640")
    return int(height), int(width)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: run(parser().parse(argv), argv))


def run(arguments: argparse.Namespace, argv: list[str]) -> None:
    names = select_suites(arguments.suites)
    check_arguments(arguments)

    import torch

    from retinanet.benchmarks.report import header, machine

    suites = {name: importlib.import_module(f"retinanet.benchmarks.{SUITES[name]}") for name in names}

    begin_work()
    settings = make_settings(arguments)
    if arguments.json is not None:
        make_folder(arguments.json.parent)
    threads = torch.get_num_threads()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        description = {**machine(settings), "command": ["retinanet", "benchmark", *argv]}
        print(header(description))
        for line in precision_notes(arguments.precision, settings):
            print(line)
        results: dict[str, SuiteResult] = {}
        for name, suite in suites.items():
            results[name] = suite.run(settings)
            if arguments.json is not None:  # after each suite, because suites may take long
                write_results(arguments.json, results, description)
            print("\n" + "\n\n".join(results[name].tables), flush=True)
    finally:
        torch.set_num_threads(threads)
    print("\nratios above 1: ours is better (median of the ratios within each round)")
    for name, value in flat_ratios(results).items():
        print(f"  {name:<40} {value:.3f}")
    if arguments.json is not None:
        print(f"\nwritten: {arguments.json}")


def write_results(file: Path, results: dict[str, "SuiteResult"], machine: dict) -> None:
    """Write the ratios and details of the suites so far."""
    details = {name: result.details for name, result in results.items()}
    content = {**flat_ratios(results), "details": {"machine": machine, **details}}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def select_suites(names: list[str]) -> list[str]:
    """Names of the selected suites, without duplicates.

    Raises:
        InputError: there is no suite with one of these names.
    """
    # Accept dashes instead of underscores, as in option names.
    names = [name.replace("-", "_") for name in names]
    for name in names:
        if name not in SUITES and name != ALL:
            nearest = difflib.get_close_matches(name, [*SUITES, ALL], n=1, cutoff=0.5)
            advice = f"; did you mean {nearest[0]}?" if nearest else ""
            raise InputError(f"no suite {name!r}, expected one or more of {', '.join([*SUITES, ALL])}{advice}")
    return list(SUITES) if ALL in names else list(dict.fromkeys(names))


def check_arguments(arguments: argparse.Namespace) -> None:
    for name, least in (("rounds", 1), ("threads", 1), ("batch", 1), ("classes", 1), ("workers", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise InputError(f"--{name} is {value}, expected {least} or more")
    backbones = get_args(TorchvisionResNet)
    if arguments.backbone not in backbones:
        raise InputError(f"--backbone is {arguments.backbone!r}, expected one of {', '.join(backbones)}")


def make_settings(arguments: argparse.Namespace) -> "Settings":
    from retinanet.benchmarks.settings import Settings
    from retinanet.runtime.device import resolve_device, resolve_precision

    device = resolve_device(arguments.device)
    return Settings(
        rounds=arguments.rounds,
        device=device,
        dtype=resolve_precision(device, arguments.precision),
        size=arguments.size,
        batch=arguments.batch,
        classes=arguments.classes,
        backbone=arguments.backbone,
        compiled=arguments.compiled,
        growth=arguments.growth,
        workers=arguments.workers,
        images=arguments.images,
        annotations=arguments.annotations,
    )


def precision_notes(precision: str, settings: "Settings") -> list[str]:
    """Notes on the precision used, for devices without native bfloat16."""

    import torch

    from retinanet.runtime.device import has_bfloat16

    if has_bfloat16(settings.device):
        return []
    if precision == "auto":
        return [
            "note      no native bfloat16 on this device: float32 is used instead (--precision bf16 would be emulated)"
        ]
    if settings.dtype == torch.bfloat16:
        return ["note      no native bfloat16 on this device: it is emulated and slower than float32"]
    return []


def flat_ratios(results: dict[str, "SuiteResult"]) -> dict[str, float]:
    """All ratios by name, prefixed with the name of the suite if there are several."""
    several = len(results) > 1
    return {
        f"{suite}.{name}" if several else name: value
        for suite, result in results.items()
        for name, value in result.ratios.items()
    }
