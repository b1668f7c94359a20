"""Look at the images of a dataset, or at detections next to their ground truth, in a web browser."""

import argparse
import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from retinanet.cli.arguments import CommandParser, output_path, positive_int
from retinanet.cli.interrupts import begin_work
from retinanet.cli.process import exit_code
from retinanet.errors import InputError

if TYPE_CHECKING:
    from retinanet.config import Config
    from retinanet.data.reader import SampleReader
    from retinanet.formats.dataset import Dataset
    from retinanet.report.browse import Collection
    from retinanet.report.browse_images import ImageFiles

LIMIT = 100  # images on a page that is written to a file


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet browse",
        description="Show images with their ground truth in a web browser and, for a run or a file of detections, the "
        "detections next to it. Filter by class, split, number of objects, kind of error and score. A server on this "
        "machine sends the images, to this machine only, until Ctrl-C.",
        epilog="examples: retinanet browse datasets/cells; retinanet browse runs/cells; "
        "retinanet browse detections.json --data datasets/cells",
    )
    result.add_argument(
        "source",
        metavar="DATA|RUN|DETECTIONS",
        help="dataset folder or annotation file; run folder that `retinanet eval` has evaluated; or COCO results, with "
        "--data",
    )
    result.add_overrides(
        "set a key of the data section, where data.train is the dataset: data.train.images=DIR for images that are not "
        "beside the annotations, data.train.format=voc for a folder with several formats"
    )
    result.add_argument("--data", metavar="PATH", help="dataset that the detections belong to")
    result.add_argument("--split", metavar="NAME", help="split of the dataset (default: all, or val with --data)")
    result.add_argument(
        "--output", type=output_path, metavar="FILE", help="write an HTML page of some images and start no server"
    )
    result.add_argument(
        "--limit", type=positive_int, metavar="N", default=LIMIT, help=f"images on that page (default: {LIMIT})"
    )
    result.add_argument("--port", type=positive_int, default=0, help="port of the server (default: any free port)")
    result.add_argument("--no-open", action="store_true", help="print the address, but do not open a web browser")
    return result


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parser().parse(sys.argv[1:] if argv is None else argv)))


def run(arguments: argparse.Namespace) -> None:
    from retinanet.report.browse import COMMAND, render_browser
    from retinanet.report.browse_images import ImageFiles
    from retinanet.visualization.html import check_page, write_page

    begin_work()
    if arguments.output:
        check_page(arguments.output, command=COMMAND, option="--output")
    collection, reader = open_source(
        arguments.source, data=arguments.data, split=arguments.split, overrides=arguments.overrides
    )
    images = ImageFiles(reader)
    if arguments.output:
        urls = {index: images.data_url(index) for index in collection.spread_out(arguments.limit)}
        write_page(render_browser(collection, urls), arguments.output)
        print(f"{len(urls)} of {len(collection)} images: {arguments.output}")
    else:
        serve(render_browser(collection), images, port=arguments.port, open_browser=not arguments.no_open)


def serve(page: str, images: "ImageFiles", *, port: int, open_browser: bool) -> None:
    """Serve the page until Ctrl-C."""
    from retinanet.report.browse_server import BrowseServer

    with BrowseServer(page, images, port=port) as server:
        print(f"{len(images)} images: {server.url} (Ctrl-C to stop)", flush=True)
        if open_browser and has_screen():
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)


def has_screen() -> bool:
    """Whether a web browser can open a window; without one, it might take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_source(
    source: str, *, data: str | None, split: str | None, overrides: list[str]
) -> "tuple[Collection, SampleReader]":
    """Read the dataset, the detections on a dataset, or the detections of a run that the arguments name.

    Raises:
        InputError: it cannot be read.
    """
    from retinanet.engine.run_files import is_run_folder

    if is_run_folder(Path(source)):
        for option, value in (("--split", split), ("--data", data)):
            if value is not None:
                raise InputError(f"{option}: a run has detections on its validation set only; omit the option")
        return open_run(Path(source), overrides)
    if data is not None:
        return open_detections(Path(source), data, split, overrides)
    return open_dataset(source, split, overrides)


def open_dataset(path: str, split: str | None, overrides: list[str]) -> "tuple[Collection, SampleReader]":
    """Open one split of a dataset, or all of them."""
    from retinanet.data.build import build_reader
    from retinanet.formats.detect import splits_of
    from retinanet.report.browse import collect_splits

    cfg = dataset_config(path, overrides)
    splits = [split] if split is not None else splits_of(cfg.data.train[0]) or [None]
    collection = collect_splits(path, {name or "all": read_split(cfg, name) for name in splits})
    return collection, build_reader(cfg, collection.dataset, [], seed=0)


def open_detections(
    file: Path, data: str, split: str | None, overrides: list[str]
) -> "tuple[Collection, SampleReader]":
    """Open detections in the COCO results format, on a split of a dataset or on its validation split."""
    from retinanet.data.build import build_reader
    from retinanet.evaluation.results_file import read_results
    from retinanet.formats.detect import splits_of
    from retinanet.formats.splits import choose_split
    from retinanet.report.browse import collect_detections

    cfg = dataset_config(data, overrides)
    if split is None:
        split = choose_split(splits_of(cfg.data.train[0]), split=None, part="val", source=data)
    dataset = read_split(cfg, split)
    collection = collect_detections(f"{file} on {data}", dataset, read_results(file, dataset))
    return collection, build_reader(cfg, dataset, [], seed=0)


def open_run(folder: Path, overrides: list[str]) -> "tuple[Collection, SampleReader]":
    """Open the validation set of a run, and the detections that `retinanet eval` has written."""
    from retinanet.checkpoint.file import read_checkpoint
    from retinanet.config.load import with_overrides
    from retinanet.data.build import build_reader, load_val_data
    from retinanet.engine.evaluation_files import DETECTIONS_FILE
    from retinanet.engine.run_files import find_checkpoint, with_paths_of_run
    from retinanet.evaluation.results_file import read_results
    from retinanet.report.browse import collect_detections

    file = folder / DETECTIONS_FILE
    if not file.is_file():
        raise InputError(f"{file}: does not exist; run `retinanet eval {folder}` first")
    checkpoint = read_checkpoint(find_checkpoint(folder))
    cfg = with_overrides(with_paths_of_run(checkpoint.config, folder), overrides, f"{folder} with overrides")
    if cfg.custom.val_data and not cfg.data.has_validation:
        raise InputError(
            f"{folder}: its validation set, {cfg.custom.val_data}, was passed in Python; set data.val to browse"
        )
    dataset = load_val_data(cfg, checkpoint.class_names)
    collection = collect_detections(str(folder), dataset, read_results(file, dataset))
    return collection, build_reader(cfg, dataset, [], seed=0)


def dataset_config(path: str, overrides: list[str]) -> "Config":
    """A config with a dataset as `data.train`. Images that do not exist are skipped."""
    from retinanet.cli.own_data import config_of

    return config_of(path, ["data.missing_images=skip", *overrides])


def read_split(cfg: "Config", split: str | None) -> "Dataset":
    """Read one split of a dataset, or all of it if it has none.

    Problems in the annotations are reported only if they leave nothing to show; `retinanet check` reports them all.
    """
    from retinanet.data.build import read_sources
    from retinanet.formats.findings import Finding, report

    source = cfg.data.train[0]
    source = source if split is None else source.model_copy(update={"split": split})
    findings: list[Finding] = []
    try:
        return read_sources(cfg, (source,), "data.train", findings=findings)
    except InputError:
        report(findings)
        raise
