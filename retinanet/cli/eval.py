"""Score a checkpoint on its validation set with the twelve COCO metrics and AP per class."""

import argparse
import math
from pathlib import Path

from retinanet.cli.exit_codes import exit_code
from retinanet.engine.evaluate_checkpoint import DETECTIONS_FILE, METRICS_FILE, evaluate_checkpoint
from retinanet.engine.run_folder import run_folder_of


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="retinanet eval",
        description=__doc__,
        epilog="example: retinanet eval runs/cells/checkpoints/best.pt postprocess.nms_iou=0.6",
    )
    result.add_argument("checkpoint", type=Path, help="checkpoint of a training run; it holds its config and classes")
    result.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of that config")
    result.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for evaluation.json and detections.json (default: the run folder of the checkpoint)",
    )
    return result


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_intermixed_args(argv)
    return exit_code(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    output = arguments.output or run_folder_of(arguments.checkpoint)
    evaluation = evaluate_checkpoint(arguments.checkpoint, arguments.overrides, output=output)
    if evaluation is None:  # this is not the main process
        return
    print(evaluation.scores.summary)
    width = max(map(len, evaluation.scores.per_class))
    print("\nAP per class")
    for name, value in evaluation.scores.per_class.items():
        print(f"  {name:{width}}  {'no objects' if math.isnan(value) else f'{value:.3f}'}")
    print(f"\nwritten: {output / METRICS_FILE}, {output / DETECTIONS_FILE}")
