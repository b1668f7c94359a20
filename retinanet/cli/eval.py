"""Score a checkpoint on its validation set with the twelve COCO metrics and AP per class."""

import argparse
import math
import sys
from pathlib import Path

from retinanet.cli import checkpoint
from retinanet.cli.arguments import CommandParser, output_path
from retinanet.cli.interrupts import begin_work
from retinanet.cli.process import exit_code
from retinanet.engine.run_files import run_folder_of


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet eval",
        description=__doc__,
        epilog="examples: retinanet eval runs/cells; "
        "retinanet eval runs/cells/checkpoints/last.pt postprocess.nms_iou=0.6",
    )
    result.add_argument("checkpoint", type=Path, help=checkpoint.HELP)
    result.add_overrides("set a key of the config in the checkpoint")
    result.add_argument(
        "--output",
        type=output_path,
        metavar="DIR",
        help="folder for evaluation.json and detections.json (default: the run folder of the checkpoint)",
    )
    return result


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parser().parse(sys.argv[1:] if argv is None else argv)))


def run(arguments: argparse.Namespace) -> None:
    path = checkpoint.named_checkpoint(arguments.checkpoint)
    checkpoint.check_early(path, arguments.overrides)

    from retinanet.engine.evaluate_checkpoint import DETECTIONS_FILE, METRICS_FILE, evaluate_checkpoint

    begin_work()
    output = arguments.output or run_folder_of(path)
    evaluation = evaluate_checkpoint(path, arguments.overrides, output=output)
    if evaluation is None:  # this is not the main process
        return
    print(evaluation.scores.summary)
    width = max(map(len, evaluation.scores.per_class))
    print("\nAP per class")
    for name, value in evaluation.scores.per_class.items():
        print(f"  {name:{width}}  {'no objects' if math.isnan(value) else f'{value:.3f}'}")
    print(f"\nwritten: {output / METRICS_FILE}, {output / DETECTIONS_FILE}")
