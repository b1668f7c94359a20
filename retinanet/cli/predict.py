"""Detect objects in images, draw them, and write them to a JSON file."""

import argparse
import json
import sys
from pathlib import Path

from retinanet.cli import checkpoint
from retinanet.cli.arguments import CommandParser, fraction, output_path, positive_int
from retinanet.cli.interrupts import begin_work
from retinanet.cli.process import exit_code
from retinanet.errors import InputError, make_folder
from retinanet.formats.image_paths.band_files import annotated_files
from retinanet.formats.image_paths.listing import is_image_name
from retinanet.inference.thresholds import DEFAULT_THRESHOLD

RESULTS_FILE = "detections.json"


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet predict",
        description=__doc__,
        epilog="example: retinanet predict runs/cells my/images --output runs/drawn postprocess.nms_iou=0.6",
    )
    result.add_argument("checkpoint", type=Path, help=checkpoint.HELP)
    result.add_argument("images", nargs="+", type=Path, help="image files, or folders of images")
    result.add_overrides("set a key of the config in the checkpoint")
    result.add_argument(
        "--output",
        type=output_path,
        required=True,
        metavar="DIR",
        help="folder for the drawn images and detections.json",
    )
    result.add_argument(
        "--min-score",
        type=fraction,
        metavar="SCORE",
        help="draw detections with at least this score (default: the threshold of each class, if `retinanet eval "
        f"--store-thresholds` stored them in the checkpoint; otherwise {DEFAULT_THRESHOLD})",
    )
    result.add_argument("--limit", type=positive_int, metavar="N", help="use only the first N images")
    result.add_argument("--batch-size", type=positive_int, default=8, metavar="N", help="images per batch (default: 8)")
    return result


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parser().parse(sys.argv[1:] if argv is None else argv)))


def run(arguments: argparse.Namespace) -> None:
    path = checkpoint.named_checkpoint(arguments.checkpoint)
    cfg = checkpoint.check_early(path, arguments.overrides, has_data=False)
    files = find_images(arguments.images, band_files=cfg.data.band_files if cfg else None)[: arguments.limit]
    names = output_names(files)
    check_output(arguments.output, names)

    from torchvision.io import write_png

    from retinanet.formats.coco.results import coco_results
    from retinanet.inference.predictor import Predictor
    from retinanet.runtime.console import progress
    from retinanet.runtime.logging import start_logging
    from retinanet.visualization.draw import draw_detections

    begin_work()
    start_logging()
    predictor = Predictor.from_checkpoint(path, arguments.overrides, use_thresholds=arguments.min_score is None)
    min_score = arguments.min_score
    if min_score is None:  # with thresholds, the predictor returns only what is to be drawn
        min_score = 0 if predictor.thresholds else DEFAULT_THRESHOLD
    limit = predictor.cfg.postprocess.min_score
    if arguments.min_score is not None and min_score < limit:
        print(
            f"note: postprocess.min_score is {limit:g}, so there are no detections with a score from {min_score:g} to "
            f"{limit:g}; to get them, add postprocess.min_score={min_score:g}"
        )
    make_folder(arguments.output)
    results, count = [], 0
    predictions = predictor.predict(files, batch_size=arguments.batch_size)
    for number, (file, name, detections) in enumerate(
        zip(progress(files, "predicting", len(files)), names, predictions, strict=True), 1
    ):
        image = predictor.read_image(file)
        drawn = draw_detections(image, detections, predictor.class_names, min_score=min_score)
        write_png(drawn, str(arguments.output / name))
        entries = coco_results([(number, detections)], predictor.category_ids)
        results += [{**entry, "file_name": str(file)} for entry in entries]
        count += int((detections.scores >= min_score).sum())
    (arguments.output / RESULTS_FILE).write_text(json.dumps(results), encoding="utf-8")
    scored = "above the threshold of its class" if predictor.thresholds else f"of at least {min_score}"
    print(f"{count} objects with a score {scored} in {len(files)} images: {arguments.output}")


def check_output(folder: Path, names: list[str]) -> None:
    """Check that no files are overwritten except those written by `retinanet predict`.

    Raises:
        InputError: other files would be overwritten.
    """
    existing = [name for name in names if (folder / name).exists()]
    if existing and not (folder / RESULTS_FILE).exists():
        raise InputError(
            f"{folder / existing[0]}: already exists and was not written by `retinanet predict`; choose another "
            "--output"
        )


def find_images(paths: list[Path], *, band_files: tuple[str, ...] | None = None) -> list[Path]:
    """Find image files, in the order of the paths; files within a folder are sorted by name.

    Args:
        band_files: patterns of the files of each image. Only the first file of an image in a folder is returned.

    Raises:
        InputError: a path does not exist, or a folder contains no images.
    """
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if is_image_name(file.name))
            if band_files is not None:
                inside = [Path(name) for name in annotated_files([str(file) for file in inside], band_files)]
            if not inside:
                raise InputError(f"{path}: contains no images; expected files such as .jpg, .png or .tif")
            images += inside
        elif path.is_file():
            images.append(path)
        else:
            raise InputError(f"{path}: no such image or folder")
    return images


def output_names(files: list[Path]) -> list[str]:
    """A unique file name for each drawn image; files with the same name are numbered."""
    names: dict[str, None] = {}  # ordered, with fast lookup
    for file in files:
        name, number = f"{file.stem}.png", 1
        while name in names:
            number += 1
            name = f"{file.stem}_{number}.png"
        names[name] = None
    return list(names)
