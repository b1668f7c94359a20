"""Images on which an export is verified: given by the user, from the validation set, or generated."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from retinanet.config import Config, DataSource
from retinanet.errors import InputError
from retinanet.export.metadata import Metadata
from retinanet.export.numpy_runtime import padded_shape
from retinanet.formats.dataset import Dataset
from retinanet.formats.image_paths.band_files import annotated_files
from retinanet.formats.image_paths.listing import image_files
from retinanet.formats.read import read_dataset
from retinanet.inference.predictor import Predictor

log = logging.getLogger(__name__)

MAX_IMAGES = 16  # for the comparison of detections
CALIBRATION_IMAGES = 64


def read_data(cfg: Config, sources: tuple[DataSource, ...], class_names: Sequence[str], *, key: str) -> Dataset:
    """Read a dataset with the classes of a detector.

    Raises:
        InputError: the data cannot be used, or has other classes.
    """
    return read_dataset(
        sources,
        classes=cfg.data.classes,
        expected_names=tuple(class_names),
        strict=cfg.data.strict,
        max_pixels=cfg.data.max_pixels,
        skip_missing_images=cfg.data.missing_images == "skip",
        allow_outside_paths=cfg.data.allow_outside_paths,
        band_files=cfg.data.band_files,
        key=key,
    )


def verification_images(cfg: Config, predictor: Predictor, metadata: Metadata, folder: Path | None) -> list[np.ndarray]:
    """Read up to `MAX_IMAGES` images, uint8 (H, W, C), with as many different padded shapes as possible.

    Args:
        folder: the images to use. None: those of the validation set, or generated ones if it cannot be read.

    Raises:
        InputError: the folder has no images, an image cannot be read, or none has the only padded shape of the export.
    """
    if folder is not None:
        paths = [str(folder / name) for name in image_files(folder)]
        if cfg.data.band_files is not None:
            paths = annotated_files(paths, cfg.data.band_files)
        if not paths:
            raise InputError(f"--images {folder}: found no images; pass a folder of images with objects")
        images = _chosen((read_array(predictor, path) for path in paths), metadata)
    else:
        try:
            sources, key = (cfg.data.val, "data.val") if cfg.data.val else (cfg.data.train, "data.train")
            data = read_data(cfg, sources, predictor.class_names, key=key)
            images = _chosen((read_array(predictor, path) for path in data.paths), metadata)
        except InputError as error:
            log.warning("verifying on generated images, because those of the config cannot be read: %s", error)
            images = _chosen(generated_images(metadata), metadata)
    if not images:
        height, width = metadata.padded_shape or (0, 0)
        raise InputError(f"--size {height}x{width}: none of the images is padded to this size; pass --images FOLDER")
    return images


def calibration_images(cfg: Config, predictor: Predictor, metadata: Metadata) -> list[np.ndarray]:
    """Read images of the training set, uint8 (H, W, C), spread over all of it.

    Raises:
        InputError: the training set cannot be read, or none of these images has the only padded shape of the export.
    """
    paths = read_data(cfg, cfg.data.train, predictor.class_names, key="data.train").paths
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), CALIBRATION_IMAGES)).round().astype(int)
    images = [read_array(predictor, paths[index]) for index in chosen]
    if metadata.padded_shape is None:
        return images
    images = [image for image in images if accepts(metadata, *image.shape[:2])]
    if not images:
        height, width = metadata.padded_shape
        raise InputError(f"--size {height}x{width}: no image of the training set is padded to this size")
    return images


def accepts(metadata: Metadata, height: int, width: int) -> bool:
    """Whether an export accepts images of this size."""
    shape = padded_shape(height, width, metadata.model_dump() | {"padded_shape": None})
    return metadata.padded_shape in (None, shape)


def read_array(predictor: Predictor, path: str) -> np.ndarray:
    """Read an image as a client has it: uint8 (H, W, C)."""
    return np.ascontiguousarray(predictor.read_image(path).permute(1, 2, 0).numpy())


def generated_images(metadata: Metadata) -> Iterator[np.ndarray]:
    """Generate images of noise with rectangles, in several aspect ratios."""
    random = np.random.default_rng(0)
    for number in range(4 * MAX_IMAGES):
        aspect = random.uniform(1, metadata.longer / metadata.shorter)
        height, width = metadata.shorter, min(round(metadata.shorter * aspect), metadata.longer)
        image = random.integers(100, 156, (height, width, metadata.channels), dtype=np.uint8)
        for _ in range(6):
            x1, y1 = random.integers(0, width * 3 // 4), random.integers(0, height * 3 // 4)
            x2, y2 = x1 + random.integers(1, width // 2 + 2), y1 + random.integers(1, height // 2 + 2)
            image[y1:y2, x1:x2] = random.integers(0, 256, metadata.channels)
        yield image if number % 2 else np.ascontiguousarray(image.swapaxes(0, 1))


def _chosen(images: Iterator[np.ndarray], metadata: Metadata) -> list[np.ndarray]:
    """Select the first images that an export accepts, limited per padded shape so that all shapes are included."""
    values = metadata.model_dump()
    by_shape: dict[tuple[int, int], list[np.ndarray]] = {}
    for image in itertools.islice(images, 4 * MAX_IMAGES):
        if accepts(metadata, *image.shape[:2]):
            by_shape.setdefault(padded_shape(*image.shape[:2], values), []).append(image)
    most = -(-MAX_IMAGES // max(len(by_shape), 1))
    return [image for of_shape in by_shape.values() for image in of_shape[:most]][:MAX_IMAGES]
