"""Compose large images from a dataset: grids of its images, with their objects, as JPEG files and a COCO file.

python -m retinanet.benchmarks.image_grids OUTPUT IMAGES ANNOTATIONS [ANNOTATIONS ...] [--grid K] [--cell HxW]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from retinanet.config import DataSource
from retinanet.data.reader import SampleReader
from retinanet.data.transforms.sample import blank, fit_size, paste, resize
from retinanet.errors import InputError, make_folder
from retinanet.formats.coco.writer import write_coco
from retinanet.formats.dataset import Dataset
from retinanet.formats.images.settings import ImageSettings
from retinanet.formats.read import read_dataset

SPLIT = "composed"
QUALITY = 95  # of the JPEG files, without chroma subsampling
MAX_SIDE = 65_500  # Pillow's limit for JPEG files


class Layout(NamedTuple):
    """Positions and sizes of the images in one grid, in pixels of the composed image."""

    corners: np.ndarray  # (K * K, 2) int64, left and top of each image
    sizes: np.ndarray  # (K * K, 2) int64, height and width of each image
    size: tuple[int, int]  # height and width of the composed image


def arrange(sizes: np.ndarray, *, grid: int, cell: tuple[int, int] | None) -> Layout:
    """Arrange images in a grid, row by row, each in the upper left corner of its cell.

    Args:
        sizes: height and width of K * K images, (K * K, 2).
        grid: K.
        cell: height and width of every cell, to which the images are scaled. None: images keep their size, and each
            row and column is as large as its largest image.
    """
    if cell is not None:
        sizes = np.array([fit_size(height, width, cell) for height, width in sizes.tolist()])
        heights, widths = np.full(grid, cell[0]), np.full(grid, cell[1])
    else:
        heights = sizes[:, 0].reshape(grid, grid).max(axis=1)
        widths = sizes[:, 1].reshape(grid, grid).max(axis=0)
    left, top = np.cumsum(widths) - widths, np.cumsum(heights) - heights
    corners = np.stack([np.tile(left, grid), np.repeat(top, grid)], axis=1)
    return Layout(corners, sizes, (int(heights.sum()), int(widths.sum())))


def compose_grids(
    dataset: Dataset, folder: Path, *, grid: int, cell: tuple[int, int] | None = None, seed: int = 0
) -> Dataset:
    """Write grids of K x K images to `folder/composed`, and their objects to `folder/annotations`.

    The images are shuffled. Each is used at most once: those that do not fill a grid are skipped. Crowd regions, areas
    and labels are kept; masks are not, because a dataset has none.

    Args:
        grid: K.
        cell: see `arrange`.
        seed: seed of the order of the images.

    Returns:
        The dataset of the composed images.

    Raises:
        InputError: the dataset has too few images or federated annotations, an image cannot be read, a composed image
            would be too large for JPEG, or the folder contains other files.
    """
    if dataset.federated is not None:
        raise InputError("the annotations are federated (LVIS), expected complete ones: a grid mixes verified classes")
    count = len(dataset) // grid**2
    if not count:
        raise InputError(f"{len(dataset)} images, expected at least {grid**2} for a {grid} x {grid} grid; lower --grid")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not an empty folder; choose another one")
    order = np.random.default_rng(seed).permutation(len(dataset))[: count * grid**2]
    parts = dataset.subset(order.tolist())
    reader = SampleReader(parts, [], seed=seed, settings=ImageSettings(max_pixels=100_000_000))
    layouts = [
        arrange(parts.sizes[start : start + grid**2], grid=grid, cell=cell) for start in range(0, len(parts), grid**2)
    ]
    for layout in layouts:
        if max(layout.size) > MAX_SIDE:
            raise InputError(f"a composed image would have {layout.size[1]}x{layout.size[0]} pixels; lower --grid")
    make_folder(folder / SPLIT)
    paths = [folder / SPLIT / f"{number:06d}.jpg" for number in range(1, count + 1)]
    for number, (path, layout) in enumerate(zip(paths, layouts, strict=True)):
        draw_grid(reader, number * grid**2, layout).save(path, quality=QUALITY, subsampling=0)
    composed = replace(
        _moved(parts, layouts),
        paths=tuple(map(str, paths)),
        image_ids=tuple(range(1, count + 1)),
        sizes=np.array([layout.size for layout in layouts]),
        box_start=parts.box_start[:: grid**2],
        source=None,
        source_rows=None,
    )
    write_coco(composed, folder, split=SPLIT)
    return composed


def draw_grid(reader: SampleReader, first: int, layout: Layout) -> Image.Image:
    """Draw consecutive images of the reader's dataset, starting at index `first`, at their places in a grid."""
    canvas = blank(*layout.size)
    for index, ((left, top), size) in enumerate(
        zip(layout.corners.tolist(), layout.sizes.tolist(), strict=True), first
    ):
        paste(canvas, resize(reader.read(index), *size), top, left)
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())


def _moved(parts: Dataset, layouts: Sequence[Layout]) -> Dataset:
    """Move and scale the objects of the images to their places in the grids."""
    counts = np.diff(parts.box_start)
    corners = np.repeat(np.concatenate([layout.corners for layout in layouts]), counts, axis=0)  # (M, 2)
    scales = np.concatenate([layout.sizes for layout in layouts]) / parts.sizes
    scales = np.repeat(scales[:, ::-1], counts, axis=0)  # (M, 2), horizontal and vertical
    boxes_xywh = parts.boxes_xywh * np.tile(scales, 2)
    boxes_xywh[:, :2] += corners
    return replace(parts, boxes_xywh=boxes_xywh, areas=parts.areas * scales.prod(axis=1))


def height_and_width(text: str) -> tuple[int, int]:
    """Parse HxW, such as 240x320."""
    height, separator, width = text.partition("x")
    if not separator or not height.isdecimal() or not width.isdecimal() or not int(height) or not int(width):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected HxW, such as 240x320")
    return int(height), int(width)


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m retinanet.benchmarks.image_grids", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="new folder for the composed images")
    parser.add_argument("images", metavar="IMAGES", help="folder that contains the images")
    parser.add_argument("annotations", nargs="+", metavar="ANNOTATIONS", help="annotation files")
    parser.add_argument("--grid", type=int, default=4, metavar="K", help="images per row and column (default: 4)")
    parser.add_argument(
        "--cell", type=height_and_width, metavar="HxW", help="size that images are fitted into (default: their own)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the order of the images (default: 0)")
    args = parser.parse_args(argv)
    if args.grid < 1 or args.seed < 0:
        parser.error(f"--grid is {args.grid} and --seed is {args.seed}, expected --grid >= 1 and --seed >= 0")
    try:
        dataset = read_dataset(tuple(DataSource(annotations=file, images=args.images) for file in args.annotations))
        composed = compose_grids(dataset, args.output, grid=args.grid, cell=args.cell, seed=args.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    height, width = composed.sizes.max(axis=0).tolist()
    print(
        f"{args.output}: {len(composed)} images of up to {width}x{height} pixels with {len(composed.labels)} objects, "
        f"composed from {len(composed) * args.grid**2} of {len(dataset)} images"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
