"""From the `data` section of a config to data sets and batches. The only file in data/ that reads a whole config."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from retinanet.config import Config, DataConfig
from retinanet.data.loader import SampleReader, make_loader
from retinanet.data.sampler import PaddedShapes, PlannedImage, eval_batches, train_batches
from retinanet.data.transforms import Resize, build_transforms
from retinanet.errors import InputError
from retinanet.formats.coco import CocoData, load_coco
from retinanet.runtime.distributed import rank, share_of, world_size
from retinanet.structures import Batch


def load_train_data(cfg: Config) -> CocoData:
    """The training set; its classes are those of the run."""
    data = load_coco(
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
            f"{len(data.class_names)} classes {list(data.class_names)[:10]}; leave num_classes out, or choose classes "
            "with data.classes (there is no background class to count)"
        )
    return data


def load_val_data(cfg: Config, class_names: tuple[str, ...]) -> CocoData:
    """The validation set, with exactly these classes."""
    return load_coco(
        cfg.data.val,
        classes=cfg.data.classes,
        like=class_names,
        strict=cfg.data.strict,
        max_pixels=cfg.data.max_pixels,
        key="data.val",
    )


def class_counts(data: CocoData) -> list[int]:
    """Objects of each class, crowd regions aside."""
    labels = np.concatenate([record.labels[~record.is_crowd] for record in data.records])
    return np.bincount(labels, minlength=len(data.class_names)).tolist()


def first_images(data: CocoData, count: int) -> CocoData:
    """A data set of the first few images alone."""
    records = data.records[:count]
    image_ids = {record.image_id for record in records}
    truth = dict(data.ground_truth)
    truth["images"] = [image for image in truth["images"] if image["id"] in image_ids]
    truth["annotations"] = [item for item in truth["annotations"] if item["image_id"] in image_ids]
    return data._replace(records=records, ground_truth=truth)


def build_padded_shapes(cfg: DataConfig) -> PaddedShapes:
    return PaddedShapes(longer=cfg.resize.longer, aspects=cfg.resize.bucket_aspects, divisor=cfg.resize.divisor)


def train_plan(cfg: Config, data: CocoData) -> Iterator[list[PlannedImage]]:
    """The endless stream of global batches."""
    return train_batches(
        [(record.height, record.width) for record in data.records],
        batch_size=cfg.train.batch_size,
        shorter=cfg.data.resize.shorter,
        padded_shapes=build_padded_shapes(cfg.data),
        seed=cfg.train.seed,
    )


def train_loader(cfg: Config, data: CocoData, *, start: int, stop: int, pin_memory: bool) -> Iterator[Batch]:
    """This process's batches of the steps from `start` to `stop`: `train.accumulate` for each step.

    They are the same ones whether or not a run was interrupted before; together with those of the other processes they
    are the global batches of the plan. An image that cannot be read is replaced and reported in its batch.
    """
    images = SampleReader(
        data.records, build_transforms(cfg.data.transforms), seed=cfg.train.seed, max_pixels=cfg.data.max_pixels
    )
    batches = shares(itertools.islice(train_plan(cfg, data), start, stop), cfg.train.accumulate)
    return make_loader(images, batches, workers=cfg.data.workers, pin_memory=pin_memory, replace_unreadable=True)


def shares(batches: Iterable[list[PlannedImage]], accumulate: int) -> Iterator[list[PlannedImage]]:
    """Global batches -> this process's parts of them, `accumulate` of each.

    The n-th parts of all processes are neighbours, so that synchronised norms see the same images together however
    many processes there are.
    """
    parts = world_size() * accumulate
    for batch in batches:
        for number in range(accumulate):
            yield share_of(batch, number * world_size() + rank(), parts)


def check_shares(cfg: Config) -> None:
    """
    Raises:
        InputError: a batch is too small to be shared by the processes.
    """
    parts = world_size() * cfg.train.accumulate
    if cfg.train.batch_size < parts:
        raise InputError(
            f"train.batch_size is {cfg.train.batch_size} images over all processes, too few for {world_size()} "
            f"processes with train.accumulate {cfg.train.accumulate}; give at least {parts}"
        )


def eval_plan(cfg: Config, data: CocoData) -> list[list[PlannedImage]]:
    """All batches of an evaluation, over all processes."""
    return eval_batches(
        [(record.height, record.width) for record in data.records],
        batch_size=cfg.train.eval_batch_size or cfg.train.batch_size,
        shorter=eval_shorter(cfg.data),
        padded_shapes=build_padded_shapes(cfg.data),
    )


def eval_loader(cfg: Config, data: CocoData, batches: list[list[PlannedImage]], *, pin_memory: bool) -> Iterator[Batch]:
    """Load batches of an `eval_plan`.

    Raises:
        InputError: an image cannot be read; a score without it would be a different score.
    """
    images = SampleReader(data.records, [Resize()], seed=0, max_pixels=cfg.data.max_pixels)
    return make_loader(images, batches, workers=cfg.data.workers, pin_memory=pin_memory, replace_unreadable=False)


def eval_shorter(cfg: DataConfig) -> int:
    """The shorter side of images in evaluation and prediction."""
    return cfg.resize.val_shorter or max(cfg.resize.shorter)
