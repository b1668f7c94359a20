"""Detect objects in images: draw them, and write them down."""

import argparse
import json
from pathlib import Path

from torchvision.io import write_png

from retinanet.errors import InputError, exit_code, make_folder
from retinanet.formats.coco import coco_results
from retinanet.formats.image import read_image
from retinanet.inference.predictor import Predictor
from retinanet.runtime.console import progress
from retinanet.runtime.logging import start_logging
from retinanet.visualization.draw import draw_detections

RESULTS = "detections.json"
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="retinanet predict",
        description=__doc__,
        epilog="example: retinanet predict runs/cells/checkpoints/best.pt my/images --output found --min-score 0.5",
    )
    result.add_argument("checkpoint", type=Path, help="a file that training wrote")
    result.add_argument("images", nargs="+", type=Path, help="images, or folders of them")
    result.add_argument("--output", type=Path, required=True, metavar="DIR", help="for the images and detections.json")
    result.add_argument("--min-score", type=float, default=0.3, help="draw detections from this score (default: 0.3)")
    result.add_argument("--limit", type=whole_number, metavar="N", help="only the first N images")
    result.add_argument("--batch-size", type=whole_number, default=8, metavar="N", help="images at a time (default: 8)")
    result.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes one key of the config")
    return result


def whole_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)

    def run() -> None:
        start_logging()
        predictor = Predictor.from_checkpoint(arguments.checkpoint, arguments.set)
        files = find_images(arguments.images)[: arguments.limit]
        results, names, count = [], output_names(files), 0
        taken = [name for name in names if (arguments.output / name).exists()]
        if taken and not (arguments.output / RESULTS).exists():
            raise InputError(
                f"{arguments.output / taken[0]}: is there already, and no earlier prediction wrote it; name another "
                "folder for --output"
            )
        make_folder(arguments.output)
        found = predictor.predict(files, batch_size=arguments.batch_size)
        for number, (file, name, detections) in enumerate(
            zip(progress(files, "predicting", len(files)), names, found, strict=True), 1
        ):
            image = read_image(file, max_pixels=predictor.cfg.data.max_pixels)
            drawn = draw_detections(image, detections, predictor.class_names, min_score=arguments.min_score)
            write_png(drawn, str(arguments.output / name))
            entries = coco_results([(number, detections)], predictor.category_ids)
            results += [{**entry, "file_name": str(file)} for entry in entries]
            count += int((detections.scores >= arguments.min_score).sum())
        (arguments.output / RESULTS).write_text(json.dumps(results), encoding="utf-8")
        print(f"{count} objects from score {arguments.min_score} upwards on {len(files)} images in {arguments.output}")

    return exit_code(run)


def find_images(paths: list[Path]) -> list[Path]:
    """Images in the order given; those of a folder by name.

    Raises:
        InputError: a path is not there, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
            if not inside:
                raise InputError(f"{path}: holds no image; looked for {', '.join(sorted(ENDINGS))}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path}: no such image or folder")
    return found


def output_names(files: list[Path]) -> list[str]:
    """A name for each drawn image, no two alike: where files share one, a number keeps them apart."""
    names: dict[str, None] = {}  # in order, and quick to look up
    for file in files:
        name, number = f"{file.stem}.png", 1
        while name in names:
            number += 1
            name = f"{file.stem}_{number}.png"
        names[name] = None
    return list(names)
