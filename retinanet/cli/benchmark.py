"""Measure speed and memory of our parts beside torchvision, pycocotools and the convolutions alone."""

import argparse
import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch

from retinanet.benchmarks import assignment, data, evaluation, inference, loss, model, postprocess, train_step
from retinanet.benchmarks.report import header, machine
from retinanet.benchmarks.settings import Outcome, Settings
from retinanet.config import ResNetConfig
from retinanet.errors import InputError, exit_code, make_folder
from retinanet.runtime.device import has_bfloat16, resolve_device, resolve_precision

SUITES: dict[str, Callable[[Settings], Outcome]] = {
    "train_step": train_step.run,
    "inference": inference.run,
    "loss": loss.run,
    "assignment": assignment.run,
    "postprocess": postprocess.run,
    "data": data.run,
    "eval": evaluation.run,
    "model": model.run,
}
ALL = "all"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="retinanet benchmark",
        description=f"{__doc__} Suites: {', '.join(SUITES)}; {ALL} runs each of them.",
        epilog="Contestants take turns, round by round; a ratio over 1 means that ours is better. "
        "example: retinanet benchmark train_step loss --rounds 10 --threads 2 --json speed.json",
    )
    result.add_argument("suites", nargs="+", metavar="SUITE", help=f"one or several of {', '.join([*SUITES, ALL])}")
    result.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="timed calls of each contestant (%(default)s)"
    )
    result.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: what torch takes)")
    result.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, auto (%(default)s)")
    result.add_argument(
        "--precision", choices=("fp32", "bf16", "auto"), default="auto", help="of networks (%(default)s)"
    )
    result.add_argument("--size", type=height_and_width, metavar="HxW", help="of padded images (default: the suite's)")
    result.add_argument("--batch", type=int, metavar="B", help="images at once (default: the suite's)")
    result.add_argument("--classes", type=int, metavar="K", help="number of classes (default: the suite's)")
    result.add_argument("--backbone", default="resnet50", metavar="NAME", help="of networks (%(default)s)")
    result.add_argument("--compiled", action="store_true", help="also measure what torch.compile makes of it")
    result.add_argument("--growth", action="store_true", help="also measure how cost grows with the work")
    result.add_argument("--workers", type=int, default=2, metavar="N", help="of the suite data, beside 0 (%(default)s)")
    result.add_argument("--images", type=Path, metavar="DIR", help="images of the suite data (default: drawn ones)")
    result.add_argument("--annotations", type=Path, metavar="FILE", help="their annotations in COCO form")
    result.add_argument("--json", type=Path, metavar="FILE", help="also write ratios and details")
    return result


def height_and_width(text: str) -> tuple[int, int]:
    """ "480x640" -> (480, 640)."""
    height, by, width = text.lower().partition("x")
    if not (by and height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected HEIGHTxWIDTH in pixels, such as 480x640")
    return int(height), int(width)


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)

    def run() -> None:
        names = chosen(arguments.suites)
        check_counts(arguments)
        settings = settings_of(arguments)
        if arguments.json is not None:
            make_folder(arguments.json.parent)
        threads = torch.get_num_threads()
        if arguments.threads is not None:
            torch.set_num_threads(arguments.threads)
        try:
            description = machine(settings)
            description["command"] = ["retinanet", "benchmark", *(sys.argv[1:] if argv is None else argv)]
            print(header(description))
            for line in remarks(arguments.precision, settings):
                print(line)
            outcomes = {}
            for name in names:
                outcomes[name] = SUITES[name](settings)
                print("\n" + "\n\n".join(outcomes[name].tables), flush=True)
        finally:
            torch.set_num_threads(threads)
        ratios = flat(outcomes)
        print("\nover 1: ours is better (median of the ratios within each round)")
        for name, value in ratios.items():
            print(f"  {name:<40} {value:.3f}")
        if arguments.json is not None:
            details = {name: outcome.details for name, outcome in outcomes.items()}
            content = {**ratios, "details": {"machine": description, **details}}
            arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            print(f"\nwritten: {arguments.json}")

    return exit_code(run)


def chosen(names: list[str]) -> list[str]:
    """The suites that were asked for, each once.

    Raises:
        InputError: there is no such suite.
    """
    # Words are joined by a dash in other commands.
    wanted = [name.replace("-", "_") for name in names]
    for name in wanted:
        if name not in SUITES and name != ALL:
            nearest = difflib.get_close_matches(name, [*SUITES, ALL], n=1, cutoff=0.5)
            advice = f"; did you mean {nearest[0]}?" if nearest else ""
            raise InputError(f"found no suite {name!r}, expected some of {', '.join([*SUITES, ALL])}{advice}")
    return list(SUITES) if ALL in wanted else list(dict.fromkeys(wanted))


def check_counts(arguments: argparse.Namespace) -> None:
    for name, least in (("rounds", 1), ("threads", 1), ("batch", 1), ("classes", 1), ("workers", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise InputError(f"--{name} is {value}, expected {least} or more")
    backbones = get_args(ResNetConfig.model_fields["name"].annotation)
    if arguments.backbone not in backbones:
        raise InputError(f"--backbone is {arguments.backbone!r}, expected one of {', '.join(backbones)}")


def settings_of(arguments: argparse.Namespace) -> Settings:
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


def remarks(precision: str, settings: Settings) -> list[str]:
    """What the reader of the figures should know about the precision."""
    if has_bfloat16(settings.device):
        return []
    if precision == "auto":
        return ["note      no native bfloat16 here: float32 in its place (--precision bf16 would be an emulation)"]
    if settings.dtype == torch.bfloat16:
        return ["note      no native bfloat16 here: it is emulated, and slower than float32"]
    return []


def flat(outcomes: dict[str, Outcome]) -> dict[str, float]:
    """All ratios by name; the name of the suite stands before them where there are several suites."""
    several = len(outcomes) > 1
    return {
        f"{suite}.{name}" if several else name: value
        for suite, outcome in outcomes.items()
        for name, value in outcome.ratios.items()
    }
