"""Build datasets, samplers and loaders from the `data` section of a config."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torchvision.transforms import v2

from retinanet.config import (
    AllSampling,
    ClassAwareSampling,
    Config,
    DataConfig,
    DataSource,
    RepeatFactorSampling,
)
from retinanet.data.federated import check_background, warn_of_combined_images
from retinanet.data.holdout import is_held_out
from retinanet.data.image_settings import build_fill, build_image_settings
from retinanet.data.loader import make_loader
from retinanet.data.padded_shapes import PaddedShapes
from retinanet.data.reader import SampleReader
from retinanet.data.sampler import PlannedImage, epoch_length, eval_batches, train_batches
from retinanet.data.sampling import class_aware_uses, repeat_factors
from retinanet.data.transforms.build import build_transforms
from retinanet.data.transforms.partners import SampleTransform
from retinanet.data.transforms.sizing import Resize
from retinanet.data.transforms.torchvision import TorchvisionTransform
from retinanet.errors import InputError
from retinanet.formats.checks.plausibility import check_objects
from retinanet.formats.dataset import Dataset
from retinanet.formats.findings import Finding, report
from retinanet.formats.images.notes import sample_notes
from retinanet.formats.read import read_dataset
from retinanet.runtime.distributed import rank, share_of, world_size
from retinanet.structures import Batch

log = logging.getLogger(__name__)

NOTED_IMAGES = 64  # training images examined for their value range


def load_train_data(cfg: Config, findings: list[Finding] | None = None) -> Dataset:
    """Read the training set, which determines the classes of the run.

    Args:
        findings: see `read_dataset`. With a list, value ranges are not examined.

    Raises:
        InputError: the data cannot be used, or its number of classes differs from `model.num_classes`.
    """
    data = read_sources(cfg, cfg.data.train, "data.train", keep_empty=cfg.data.keep_empty, findings=findings)
    if cfg.data.val_fraction:
        data = data.subset(np.flatnonzero(~_held_out(cfg, data)))
    without_objects = check_objects(data, where=cfg.data.train[0].annotations, training=True)
    if findings is None:
        report(without_objects)
    else:
        findings += without_objects
    if cfg.model.num_classes not in (None, len(data.class_names)):
        raise InputError(
            f"model.num_classes: is {cfg.model.num_classes}, but {cfg.data.train[0].annotations} has "
            f"{len(data.class_names)} classes {list(data.class_names)[:10]}; omit num_classes, or select classes with "
            "data.classes (the background is not a class)"
        )
    if findings is not None:
        return data
    notes = sample_notes(
        data,
        cfg.data.train[0].annotations,
        build_image_settings(cfg),
        max_images=NOTED_IMAGES,
    )
    report(notes.value_ranges())
    return data


def load_val_data(cfg: Config, class_names: tuple[str, ...] | None, findings: list[Finding] | None = None) -> Dataset:
    """Read the validation set, or the held-out part of the training set.

    Args:
        class_names: the classes of the training set. The validation set may lack some of them, but must not have any
            others. None: unknown, because the training set cannot be read.
        findings: see `read_dataset`.

    Raises:
        InputError: the data cannot be used, or has additional classes.
    """
    if cfg.data.val or not cfg.data.val_fraction:
        return read_sources(cfg, cfg.data.val, "data.val", expected_names=class_names, findings=findings)
    data = read_sources(cfg, cfg.data.train, "data.train", expected_names=class_names, findings=findings)
    return data.subset(np.flatnonzero(_held_out(cfg, data)))


def read_sources(
    cfg: Config,
    sources: tuple[DataSource, ...],
    key: str,
    *,
    expected_names: tuple[str, ...] | None = None,
    keep_empty: bool = True,
    findings: list[Finding] | None = None,
) -> Dataset:
    """Read sources with the settings in `data`; see `read_dataset`.

    Raises:
        InputError: the data cannot be used, or its annotations are federated and the model uses softmax class scores.
    """
    data = read_dataset(
        sources,
        classes=cfg.data.classes,
        expected_names=expected_names,
        keep_empty=keep_empty,
        strict=cfg.data.strict,
        max_pixels=cfg.data.max_pixels,
        skip_missing_images=cfg.data.missing_images == "skip",
        allow_outside_paths=cfg.data.allow_outside_paths,
        band_files=cfg.data.band_files,
        key=key,
        findings=findings,
    )
    if data.federated is not None:
        check_background(cfg, where=f"{key}: {sources[0].annotations}")
    return data


def _held_out(cfg: Config, data: Dataset) -> np.ndarray:
    return is_held_out(data, fraction=cfg.data.val_fraction, group=cfg.data.val_group)


def build_padded_shapes(cfg: DataConfig) -> PaddedShapes:
    """Build the padded shapes used for training and evaluation batches."""
    return PaddedShapes(longer=cfg.resize.longer, aspects=cfg.resize.bucket_aspects, divisor=cfg.resize.divisor)


def build_train_sampler(cfg: Config, data: Dataset, *, start: int = 0) -> Iterator[list[PlannedImage]]:
    """Build the endless stream of global training batches, starting with batch number `start`."""
    return train_batches(
        data.sizes.tolist(),
        batch_size=cfg.train.batch_size,
        shorter=cfg.data.resize.shorter,
        padded_shapes=build_padded_shapes(cfg.data),
        seed=cfg.train.seed,
        uses=build_uses(cfg.data, data),
        start=start,
    )


def build_reader(cfg: Config, data: Dataset, transforms: Sequence[SampleTransform], *, seed: int) -> SampleReader:
    """Build the reader of a dataset's images; see `SampleReader`."""
    return SampleReader(data, transforms, seed=seed, settings=build_image_settings(cfg))


def build_uses(cfg: DataConfig, data: Dataset) -> np.ndarray | None:
    """Compute the average number of uses of each training image per epoch, (I,) float64; None means once each."""
    match cfg.sampling:
        case AllSampling():
            return None
        case RepeatFactorSampling(threshold=threshold):
            return repeat_factors(data, threshold)
        case ClassAwareSampling():
            return class_aware_uses(data)


def images_per_epoch(cfg: Config, data: Dataset) -> int:
    """Return the number of images in an epoch, which `data.sampling` may increase by repeating some."""
    return epoch_length(len(data), build_uses(cfg.data, data), cfg.train.batch_size)


def closing_epoch(cfg: Config, data: Dataset) -> int | None:
    """Return the first epoch without strong transforms, or None if they are applied in all epochs.

    The length of the run is rounded to whole epochs.
    """
    if cfg.data.close_last_epochs == 0:
        return None
    epochs = cfg.train.epochs
    if epochs is None:
        assert cfg.train.steps is not None
        epochs = cfg.train.steps * cfg.train.batch_size / images_per_epoch(cfg, data)
    return max(0, round(epochs) - cfg.data.close_last_epochs)


def build_train_reader(cfg: Config, data: Dataset, extra_transforms: Sequence[v2.Transform] = ()) -> SampleReader:
    """Build the reader of training images, which applies the training transforms, then `extra_transforms`."""
    transforms = build_transforms(cfg.data.transforms, fill=build_fill(cfg.model), close_at=closing_epoch(cfg, data))
    transforms += [TorchvisionTransform(transform) for transform in extra_transforms]
    return build_reader(cfg, data, transforms, seed=cfg.train.seed)


def train_loader(
    cfg: Config,
    data: Dataset,
    *,
    start: int,
    stop: int,
    pin_memory: bool,
    extra_transforms: Sequence[v2.Transform] = (),
) -> Iterator[Batch]:
    """Load this process's batches for steps [start, stop), `train.accumulate` per step.

    The batches of all processes together form the sampler's global batches, and a resumed run loads the same ones. An
    image that cannot be read is replaced, and the replacement is recorded in its batch. `extra_transforms` are applied
    after those of the config.

    Raises:
        InputError: an image can be neither read nor replaced. Raised only when its batch is requested; the message
            names the step, counted from 1.
    """
    if closing_epoch(cfg, data) == 0:
        log.warning(
            "data.close_last_epochs is %d, and the run has no more epochs: strong transforms are off throughout",
            cfg.data.close_last_epochs,
        )
    if data.federated is not None:
        warn_of_combined_images(cfg)
    reader = build_train_reader(cfg, data, extra_transforms)
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
    reader = build_reader(cfg, data, [Resize()], seed=0)
    return make_loader(reader, batches, workers=cfg.data.workers, pin_memory=pin_memory, replace_unreadable=False)


def eval_shorter(cfg: DataConfig) -> int:
    """Shorter side of images in evaluation and prediction, in pixels."""
    return cfg.resize.eval_shorter
