"""Convert a dataset to another annotation format, and verify the result by reading it back."""

import argparse
import sys

from retinanet.cli.arguments import CommandParser, output_path
from retinanet.cli.interrupts import begin_work
from retinanet.cli.own_data import config_of
from retinanet.cli.process import exit_code
from retinanet.config import Config, DataSource
from retinanet.errors import InputError
from retinanet.formats.convert import (
    IMAGES,
    TARGETS,
    check_output,
    image_folder,
    new_folder,
    place_image,
    placements,
    remove_links,
    share_names,
    write_annotations,
)
from retinanet.formats.dataset import Dataset
from retinanet.formats.detect import TITLES, splits_of
from retinanet.formats.splits import choose_split, usual_name

DEFAULT_SPLIT = "train"


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet convert",
        description=__doc__,
        epilog="examples: retinanet convert datasets/cells --to yolo --output datasets/cells_yolo; retinanet convert "
        "cells.json data.train.images=images --to voc --output cells_voc",
    )
    result.add_argument("source", metavar="SOURCE", help="annotation file, or dataset folder")
    result.add_argument("--to", required=True, choices=TARGETS, metavar="FORMAT", help=", ".join(TARGETS))
    result.add_argument("--output", type=output_path, required=True, metavar="DIR", help="new folder for the dataset")
    result.add_argument(
        "--split",
        metavar="NAME",
        help="convert only this split (default: all splits); for a source without splits, its name in the new dataset "
        f"(default: {DEFAULT_SPLIT})",
    )
    result.add_argument(
        "--images",
        choices=IMAGES,
        default="copy",
        help="copy the images (default), link to them, or write only the annotations",
    )
    result.add_overrides(
        "set a key of the data section, such as data.classes=[cat,dog]; use data.train for the first split, as in "
        "data.train.images=DIR, and data.val for the other splits"
    )
    return result


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parser().parse(sys.argv[1:] if argv is None else argv)))


def run(arguments: argparse.Namespace) -> None:
    cfg = config_of(arguments.source, arguments.overrides)
    if cfg.data.band_files is not None:
        raise InputError("data.band_files: convert copies only the annotated files; remove the key")
    check_output(arguments.output, (*cfg.data.train, *cfg.data.val))
    names = split_names(cfg.data.train[0], arguments.split)

    from retinanet.formats.verify import read_back
    from retinanet.runtime.console import progress
    from retinanet.runtime.logging import start_logging

    begin_work()
    start_logging()
    to, title = arguments.to, TITLES[arguments.to]
    datasets = read_splits(cfg, names)
    has_own_folder = share_names(datasets.values())
    with new_folder(arguments.output) as folder:
        images = {split: image_folder(folder, to=to, split=split, has_own_folder=has_own_folder) for split in datasets}
        for split, dataset in datasets.items():
            losses = write_annotations(dataset, folder, to=to, split=split, has_own_folder=has_own_folder)
            print(f"{split}: {len(dataset)} images, {len(dataset.labels)} boxes")
            for sentence, count in losses.items():
                print(f"  not in {title}: {sentence}: {count}")
        # Some formats can be read only with their images, so link the images even without --images.
        placed = [placement for split, dataset in datasets.items() for placement in placements(dataset, images[split])]
        what = "copying images" if arguments.images == "copy" else "linking images"
        for placement in progress(placed, what, len(placed)):
            place_image(placement, link=arguments.images != "copy")
        found = [
            read_back(dataset, folder, to=to, split=split, images=images[split], max_pixels=cfg.data.max_pixels)
            for split, dataset in datasets.items()
        ]
        if arguments.images == "none":
            remove_links(placed)
    num_boxes = sum(len(dataset.labels) for dataset in found)
    print(f"verified: {sum(map(len, found))} images, {num_boxes} boxes read back")
    print(f"written: {arguments.output} ({title})")


def split_names(source: DataSource, requested: str | None) -> dict[str, str | None]:
    """The splits to convert: name in the new dataset -> name in the source, or None for the whole source.

    Raises:
        InputError: the source has no split `requested`, or its format is unknown.
    """
    requested = requested or source.split
    splits = splits_of(source)
    if not splits:
        return {requested or DEFAULT_SPLIT: None}
    if requested is not None:
        chosen = choose_split(splits, split=requested, part=DEFAULT_SPLIT, source=source.annotations)
        splits = [split for split in splits if split == chosen]
    elif {"train", "val"} <= set(splits):
        splits = [split for split in splits if split != "trainval"]  # the union of train and val
    usual = [usual_name(split) for split in splits]
    return {name if usual.count(name) == 1 else split: split for name, split in zip(usual, splits, strict=True)}


def read_splits(cfg: Config, names: dict[str, str | None]) -> dict[str, Dataset]:
    """Read the splits; the first one determines the classes.

    Raises:
        InputError: the data cannot be used, or a split has classes that the first one lacks.
    """
    from retinanet.data.build import read_sources

    datasets: dict[str, Dataset] = {}
    first: Dataset | None = None
    for name, split in names.items():
        key, sources = ("data.train", cfg.data.train) if first is None else ("data.val", cfg.data.val)
        datasets[name] = read_sources(
            cfg,
            tuple(source.model_copy(update={"split": split}) for source in sources),
            key,
            expected_names=None if first is None else first.class_names,
            keep_empty=cfg.data.keep_empty,
        )
        if first is None:
            first = datasets[name]
    return datasets
