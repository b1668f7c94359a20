"""Build datasets, samplers and loaders from the `data` section of a config."""

import itertools
import logging
from collections.abc import Iterable, Iterator

import numpy as np

from retinanet.config import AllSampling, ClassAwareSampling, Config, DataConfig, RepeatFactorSampling
from retinanet.data.loader import make_loader
from retinanet.data.padded_shapes import PaddedShapes
from retinanet.data.reader import SampleReader
from retinanet.data.sampler import PlannedImage, epoch_length, eval_batches, train_batches
from retinanet.data.sampling import class_aware_uses, repeat_factors
from retinanet.data.transforms.build import build_transforms
from retinanet.data.transforms.sizing import Resize
from retinanet.errors import InputError
from retinanet.formats.coco import read_coco
from retinanet.formats.dataset import Dataset
from retinanet.runtime.distributed import rank, share_of, world_size
from retinanet.structures import Batch

log = logging.getLogger(__name__)


def load_train_data(cfg: Config) -> Dataset:
    """Read the training set, which determines the classes of the run.

    Raises:
        InputError: the data cannot be used, or its number of classes differs from `model.num_classes`.
    """
    data = read_coco(
        cfg.data.train,
        classes=cfg.data.classes,
        keep_empty=cfg.data.keep_empty,
        strict=cfg.data.strict,
        max_pixels=cfg.data.max_pixels,
        key="data.train",
    )
    if cfg.model.num_classes not in (None, len(data.class_names)):
        raise InputError(
            f"model.num_classes is {cfg.model.num_classes}, but {cfg.data.train[0].annotations} has "
            f"{len(data.class_names)} classes {list(data.class_names)[:10]}; omit num_classes, or select classes with "
            "data.classes (the background is not a class)"
        )
    return data


def load_val_data(cfg: Config, class_names: tuple[str, ...]) -> Dataset:
    """Read the validation set. It may lack some of the classes, but must not have any others.

    Raises:
        InputError: the data cannot be used, or has other classes.
    """
    return read_coco(
        cfg.data.val,
        classes=cfg.data.classes,
        expected_names=class_names,
        strict=cfg.data.strict,
        max_pixels=cfg.data.max_pixels,
        key="data.val",
    )


def build_padded_shapes(cfg: DataConfig) -> PaddedShapes:
    """Build the padded shapes used for training and evaluation batches."""
    return PaddedShapes(longer=cfg.resize.longer, aspects=cfg.resize.bucket_aspects, divisor=cfg.resize.divisor)


def build_train_sampler(cfg: Config, data: Dataset, *, start: int = 0) -> Iterator[list[PlannedImage]]:
    """Build the endless stream of global training batches, from the batch number `start` on."""
    return train_batches(
        data.sizes.tolist(),
        batch_size=cfg.train.batch_size,
        shorter=cfg.data.resize.shorter,
        padded_shapes=build_padded_shapes(cfg.data),
        seed=cfg.train.seed,
        uses=build_uses(cfg.data, data),
        start=start,
    )


def build_uses(cfg: DataConfig, data: Dataset) -> np.ndarray | None:
    """How often each training image is used in an epoch on average: (I,) float64; None: once."""
    match cfg.sampling:
        case AllSampling():
            return None
        case RepeatFactorSampling(threshold=threshold):
            return repeat_factors(data, threshold)
        case ClassAwareSampling():
            return class_aware_uses(data)


def images_per_epoch(cfg: Config, data: Dataset) -> int:
    """Number of images in an epoch: those of the dataset, unless `data.sampling` repeats some."""
    return epoch_length(len(data), build_uses(cfg.data, data), cfg.train.batch_size)


def closing_epoch(cfg: Config, data: Dataset) -> int | None:
    """First epoch without strong transforms; None: they are applied in all epochs.

    The number of epochs of the run is rounded, so an incomplete epoch at the end of the run may come on top of the
    last `data.close_last_epochs`.
    """
    if cfg.data.close_last_epochs == 0:
        return None
    epochs = cfg.train.epochs
    if epochs is None:
        assert cfg.train.steps is not None
        epochs = cfg.train.steps * cfg.train.batch_size / images_per_epoch(cfg, data)
    return max(0, round(epochs) - cfg.data.close_last_epochs)


def build_train_reader(cfg: Config, data: Dataset) -> SampleReader:
    """Build the reader of training images, which applies the training transforms."""
    close_at = closing_epoch(cfg, data)
    if close_at == 0:
        log.warning(
            "data.close_last_epochs is %d, and the run has no more epochs: strong transforms are off throughout",
            cfg.data.close_last_epochs,
        )
    transforms = build_transforms(cfg.data.transforms, close_at=close_at)
    return SampleReader(data, transforms, seed=cfg.train.seed, max_pixels=cfg.data.max_pixels)


def train_loader(cfg: Config, data: Dataset, *, start: int, stop: int, pin_memory: bool) -> Iterator[Batch]:
    """Load this process's batches for steps [start, stop), `train.accumulate` per step.

    The batches of all processes together form the sampler's global batches, and a resumed run gets the same ones. An
    image that cannot be read is replaced, and the replacement is recorded in its batch.

    Raises:
        InputError: an image can be neither read nor replaced. Raised only when its batch is requested; the message
            names the step, counted from 1.
    """
    reader = build_train_reader(cfg, data)
    planned = itertools.islice(build_train_sampler(cfg, data, start=start), stop - start)
    batches = make_loader(
        reader,
        local_batches(planned, cfg.train.accumulate),
        workers=cfg.data.workers,
        pin_memory=pin_memory,
        replace_unreadable=True,
    )
    for step in range(start + 1, stop + 1):
        try:
            yield from itertools.islice(batches, cfg.train.accumulate)
        except InputError as error:
            raise InputError(f"step {step}: {error}") from None


def local_batches(batches: Iterable[list[PlannedImage]], accumulate: int) -> Iterator[list[PlannedImage]]:
    """Split each global batch, and yield the `accumulate` micro-batches of this process.

    The n-th micro-batches of all processes are contiguous in the global batch, so synchronised batch norm computes its
    statistics over the same images for any number of processes.
    """
    parts = world_size() * accumulate
    for batch in batches:
        for number in range(accumulate):
            yield share_of(batch, number * world_size() + rank(), parts)


def check_batch_size(cfg: Config) -> None:
    """Check that every process gets at least one image of each micro-batch.

    Raises:
        InputError: the batch is too small.
    """
    parts = world_size() * cfg.train.accumulate
    if cfg.train.batch_size < parts:
        raise InputError(
            f"train.batch_size is {cfg.train.batch_size} images over all processes, too few for {world_size()} "
            f"processes with train.accumulate {cfg.train.accumulate}; set at least {parts}"
        )


def build_eval_sampler(cfg: Config, data: Dataset) -> list[list[PlannedImage]]:
    """Build the list of all batches of an evaluation, across all processes."""
    return eval_batches(
        data.sizes.tolist(),
        batch_size=cfg.train.eval_batch_size or cfg.train.batch_size,
        shorter=eval_shorter(cfg.data),
        padded_shapes=build_padded_shapes(cfg.data),
    )


def eval_loader(cfg: Config, data: Dataset, batches: list[list[PlannedImage]], *, pin_memory: bool) -> Iterator[Batch]:
    """Load the given batches of the evaluation sampler.

    Raises:
        InputError: an image cannot be read; skipping it would change the score.
    """
    reader = SampleReader(data, [Resize()], seed=0, max_pixels=cfg.data.max_pixels)
    return make_loader(reader, batches, workers=cfg.data.workers, pin_memory=pin_memory, replace_unreadable=False)


def eval_shorter(cfg: DataConfig) -> int:
    """Shorter side of images in evaluation and prediction, in pixels."""
    return cfg.resize.val_shorter or max(cfg.resize.shorter)
