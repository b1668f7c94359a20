"""Detect objects in images and videos: draw them, count them, and write them as JSON and CSV.

Results are written as they are produced; after an interruption, the same command continues.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from retinanet.cli import checkpoint
from retinanet.cli.arguments import CommandParser, fraction, output_path, positive_int, positive_number
from retinanet.cli.interrupts import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, begin_work, raising_terminated
from retinanet.cli.process import exit_code
from retinanet.inference.thresholds import DEFAULT_THRESHOLD
from retinanet.runtime.console import counted

if TYPE_CHECKING:
    from retinanet.prediction.plan import Plan
    from retinanet.prediction.run import Prediction

EXIT_UNREADABLE = 1
MAX_LISTED = 50  # failed images and videos


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet predict",
        description=__doc__,
        epilog="example: retinanet predict runs/cells my/images --output runs/drawn postprocess.nms_iou=0.6",
    )
    result.add_argument("checkpoint", type=Path, help=checkpoint.HELP)
    result.add_argument(
        "images", nargs="+", help="image or video files, folders of them, or patterns such as 'my/*/a*.jpg'"
    )
    result.add_overrides("set a key of the config in the checkpoint")
    result.add_argument(
        "--output",
        type=output_path,
        required=True,
        metavar="DIR",
        help="folder for the drawn images and videos, detections.json, detections.csv and counts.csv",
    )
    result.add_argument("--recursive", action="store_true", help="also use the images and videos in subfolders")
    result.add_argument(
        "--min-score",
        type=fraction,
        metavar="SCORE",
        help="draw, count and write objects with at least this score (default: the threshold of each class, if "
        f"`retinanet eval --store-thresholds` stored them in the checkpoint; otherwise {DEFAULT_THRESHOLD})",
    )
    result.add_argument("--no-draw", action="store_true", help="do not write drawn images and videos")
    result.add_argument("--no-labels", action="store_true", help="draw boxes without class names and scores")
    result.add_argument("--jpeg", action="store_true", help="write images as JPEG instead of PNG")
    result.add_argument("--crops", action="store_true", help="also write an image of each object, in crops/CLASS/")
    result.add_argument("--yolo", action="store_true", help="also write a YOLO label file for each image, in labels/")
    result.add_argument(
        "--frames-per-second",
        type=positive_number,
        metavar="N",
        help="use only N frames of a video per second, such as 2 or 0.1 (default: every frame)",
    )
    result.add_argument("--limit", type=positive_int, metavar="N", help="use only the first N images and videos")
    result.add_argument("--batch-size", type=positive_int, default=8, metavar="N", help="images per batch (default: 8)")
    result.add_argument("--overwrite", action="store_true", help="discard earlier results in the output folder")
    return result


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parser().parse(sys.argv[1:] if argv is None else argv)))


def run(arguments: argparse.Namespace) -> int:
    from retinanet.prediction.outputs import Outputs
    from retinanet.prediction.plan import plan_prediction
    from retinanet.runtime.logging import start_logging

    start_logging()
    path = checkpoint.named_checkpoint(arguments.checkpoint)
    cfg = checkpoint.check_early(path, arguments.overrides, has_data=False)
    outputs = Outputs(
        image_format="jpg" if arguments.jpeg else "png",
        draw=not arguments.no_draw,
        labels=not arguments.no_labels,
        crops=arguments.crops,
        yolo=arguments.yolo,
    )
    plan = plan_prediction(
        arguments.images,
        arguments.output,
        recursive=arguments.recursive,
        limit=arguments.limit,
        outputs=outputs,
        band_files=cfg.data.band_files if cfg else None,
        frames_per_second=arguments.frames_per_second,
    )

    from retinanet.inference.predictor import Predictor
    from retinanet.prediction.predict import run_plan
    from retinanet.prediction.run import PredictionInterrupted

    begin_work()
    try:
        with raising_terminated():
            predictor = Predictor.from_checkpoint(path, arguments.overrides, use_thresholds=arguments.min_score is None)
            prediction = run_plan(
                plan,
                predictor,
                path,
                arguments.overrides,
                min_score=arguments.min_score,
                batch_size=arguments.batch_size,
                overwrite=arguments.overwrite,
            )
    except PredictionInterrupted as stop:
        again = "again without --overwrite" if arguments.overwrite else "again"
        print(f"{stop}; to continue, run the same command {again}", file=sys.stderr)
        return EXIT_TERMINATED if isinstance(stop.__cause__, Terminated) else EXIT_INTERRUPTED
    thresholds = set(prediction.thresholds.values())
    scored = f"of at least {thresholds.pop():g}" if len(thresholds) == 1 else "above the threshold of its class"
    objects = counted(prediction.num_objects, "object")
    print(f"{objects} with a score {scored} in {_places(plan, prediction)}: {plan.folder}")
    if not prediction.failures:
        return 0
    number = len(prediction.failures)
    if plan.videos:
        failed = f"{counted(number, 'image or video', 'images or videos')} could not be read completely"
    else:
        failed = f"{counted(number, 'image')} could not be read"
    print(f"{failed}:", file=sys.stderr)
    for failure in prediction.failures[:MAX_LISTED]:
        print(f"  {failure.reason}", file=sys.stderr)
    if number > MAX_LISTED:
        print(f"  and {number - MAX_LISTED} more, see info.failed in detections.json", file=sys.stderr)
    return EXIT_UNREADABLE


def _places(plan: "Plan", prediction: "Prediction") -> str:
    """What the results are of, such as "3 images and 250 frames of 1 video"."""
    places = [counted(prediction.num_images, "image")] if plan.images else []
    if plan.videos:
        places.append(f"{counted(prediction.num_frames, 'frame')} of {counted(prediction.num_videos, 'video')}")
    return " and ".join(places)
