"""Batches from a plan: read, transform, pad, in worker processes."""

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from retinanet.data.sampler import PlannedImage, resized, stable_hash
from retinanet.data.transforms import Sample, Step
from retinanet.errors import InputError
from retinanet.formats.coco import Record
from retinanet.formats.image import open_image
from retinanet.structures import Batch, Targets, Unreadable

BOXES_STEP = 8  # ground truth is padded to 8, 16, 24, ...: few shapes, and little work on padding
MOST_REPLACEMENTS = 10  # tried for one image

Item = tuple[PlannedImage, Sample, tuple[int, int]]  # the last is the original size


class SampleReader:
    """Reads and transforms one sample at a time. What a sample becomes depends on the seed and the sample alone."""

    def __init__(self, records: list[Record], steps: list[Step], *, seed: int, max_pixels: int):
        self.records = records
        self.steps = steps
        self.seed = seed
        self.max_pixels = max_pixels

    def __call__(self, sample: PlannedImage) -> Item:
        """The image of a sample, ready for its batch; InputError where it cannot be read."""
        return self.transform(self.read(sample.index), sample)

    def replace(self, sample: PlannedImage, error: InputError) -> tuple[Item, list[Unreadable]]:
        """Another image that fits the batch, for one that cannot be read.

        Returns:
            The sample with the index of the image that took the place, and a record of each that was not readable.

        Raises:
            InputError: several others cannot be read either, so that it is more than a damaged file.
        """
        errors = [(sample.index, error)]
        for index in itertools.islice(self._fitting(sample), MOST_REPLACEMENTS):
            try:
                # With the randomness of the sample: in its own place in the epoch the other looks another way.
                _, example, original_size = self.transform(self.read(index), sample)
            except InputError as another:
                errors.append((index, another))
                continue
            unreadable = [Unreadable(bad, sample.epoch, index, str(reason)) for bad, reason in errors]
            return (sample._replace(index=index), example, original_size), unreadable
        if len(errors) == 1:  # there is no other image of a shape that fits
            raise error
        raise InputError(
            f"{error} (and none of the {len(errors) - 1} images tried in its place can be read, the last: "
            f"{errors[-1][1]})"
        )

    def _fitting(self, sample: PlannedImage) -> Iterator[int]:
        """The other images that fit the padded shape of a sample, in an order drawn for it."""
        random = np.random.default_rng(stable_hash("replacement", self.seed, sample.epoch, sample.index))
        for index in random.permutation(len(self.records)).tolist():
            record = self.records[index]
            height, width = resized(record.height, record.width, sample.shorter, sample.longer)
            if index != sample.index and height <= sample.padded_shape[0] and width <= sample.padded_shape[1]:
                yield index

    def transform(self, example: Sample, sample: PlannedImage) -> Item:
        original_size = tuple(example.image.shape[-2:])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stable_hash(self.seed, sample.epoch, sample.index))
            for step in self.steps:
                example = step(example, sample)
        return sample, example, original_size

    def read(self, index: int) -> Sample:
        """The image as annotated.

        Annotation tools differ in whether they look at the EXIF orientation, so the size in the file decides: boxes
        made on the rotated image are used with it, boxes made on the stored pixels with those.
        """
        record = self.records[index]
        with open_image(record.path, max_pixels=self.max_pixels) as opened:
            header = opened.header
            is_shown = (header.height, header.width) == (record.height, record.width)
            is_stored = header.orientation >= 5 and (header.width, header.height) == (record.height, record.width)
            if not is_shown and not is_stored:
                raise InputError(
                    f"{record.path}: is {header.width}x{header.height}, but its annotations say "
                    f"{record.width}x{record.height}; its boxes would be in the wrong place: correct the annotations, "
                    "or restore the image they were made on"
                )
            image = opened.decode(apply_orientation=is_shown)
        return Sample(
            image,
            torch.from_numpy(record.boxes),
            torch.from_numpy(record.labels),
            torch.from_numpy(record.is_crowd),
        )


class Reader(Dataset):
    """`Images` as DataLoader wants them. An error is returned, and raised by who reads the batches: raised here, it
    would arrive from a worker as a traceback."""

    def __init__(self, pictures: SampleReader, *, replace_unreadable: bool):
        self.pictures = pictures
        self.replace_unreadable = replace_unreadable

    def __getitem__(self, sample: PlannedImage) -> tuple[Item, list[Unreadable]] | InputError:
        try:
            try:
                return self.pictures(sample), []
            except InputError as error:
                if not self.replace_unreadable:
                    raise
                return self.pictures.replace(sample, error)
        except InputError as error:
            return error


def leave_group(worker: int) -> None:
    """Signals that a shell or torchrun sends to all processes of the run are for those that train: a worker that died
    of one could not deliver the batches of the last steps."""
    os.setpgid(0, 0)


def make_loader(
    pictures: SampleReader,
    batches: Iterable[list[PlannedImage]],
    *,
    workers: int,
    pin_memory: bool,
    replace_unreadable: bool,
) -> Iterator[Batch]:
    """Batches in the order of the plan, whatever the number of workers.

    Args:
        replace_unreadable: put another image in the place of one that cannot be read, always the same one, and say
            so in the batch.

    Raises:
        InputError: an image cannot be read, nor replaced; where it stands in the order, not before.
    """
    loader = DataLoader(
        Reader(pictures, replace_unreadable=replace_unreadable),
        batch_sampler=batches,
        collate_fn=collate_to_send if workers else collate_read,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_group,
        # A generator of its own: the default would draw from the global one, whose state is the run's.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def collate_read(read: list[tuple[Item, list[Unreadable]] | InputError]) -> Batch | InputError:
    """What `Reader` gives, as a batch; the first error, if there is one."""
    for result in read:
        if isinstance(result, InputError):
            return result
    items, unreadable = zip(*read, strict=True)
    return collate(items)._replace(unreadable=tuple(itertools.chain.from_iterable(unreadable)))


def collate_to_send(read: list[tuple[Item, list[Unreadable]] | InputError]) -> "Parcel | InputError":
    """`collate_read` in a worker process."""
    batch = collate_read(read)
    return batch if isinstance(batch, InputError) else Parcel(batch)


class Parcel:
    """A batch on its way out of a worker process, where it arrives as the batch itself.

    A tensor takes a file in shared memory and a connection to fetch it by, which pays for the images; the rest goes
    as bytes.
    """

    def __init__(self, batch: Batch):
        self.batch = batch

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple]:
        images, *others = self.batch.tensors()
        arrays = [tensor.numpy() for tensor in others]
        batch = self.batch
        return _unpack, (images, arrays, batch.targets.has_crowd, batch.image_indices, batch.unreadable)


def _unpack(
    images: Tensor,
    arrays: list[np.ndarray],
    has_crowd: bool,
    image_indices: tuple[int, ...],
    unreadable: tuple[Unreadable, ...],
) -> Batch:
    image_sizes, original_sizes, *targets = map(torch.from_numpy, arrays)
    return Batch(images, image_sizes, original_sizes, Targets(*targets, has_crowd), image_indices, unreadable)


def collate(items: Sequence[Item]) -> Batch:
    """Pad images to the shape of their batch, and ground truth to one length."""
    samples, examples, original_sizes = zip(*items, strict=True)
    images = unfilled(len(items), *samples[0].padded_shape)
    # By NumPy, for torch would share each of these copies among threads: on a busy machine they wait for each other.
    for image, example in zip(images.numpy(), examples, strict=True):
        height, width = example.image.shape[-2:]
        image[:, :height, :width] = example.image.numpy()
        image[:, height:] = 0
        image[:, :height, width:] = 0
    return Batch(
        images=images,
        image_sizes=torch.tensor([tuple(example.image.shape[-2:]) for example in examples]),
        original_sizes=torch.tensor(original_sizes),
        targets=pad_targets([(example.boxes, example.labels, example.is_crowd) for example in examples]),
        image_indices=tuple(sample.index for sample in samples),
    )


def unfilled(batch: int, height: int, width: int) -> Tensor:
    """(B, 3, H, W) uint8 of any values, in a worker in memory that is shared from the start: sending copies nothing.

    In memory the channels are interleaved, as decoding and resizing leave them: images are copied row by row.
    """
    shape = (batch, height, width, 3)
    if get_worker_info() is None:
        pixels = torch.empty(shape, dtype=torch.uint8)
    else:
        storage = torch.UntypedStorage._new_shared(math.prod(shape))  # as torch's default_collate does
        pixels = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
    return pixels.permute(0, 3, 1, 2)


def pad_targets(truths: list[tuple[Tensor, Tensor, Tensor]]) -> Targets:
    """Boxes (N, 4), labels (N,) and crowd flags (N,) of each image -> one padded record."""
    most = max(len(labels) for _, labels, _ in truths)
    length = BOXES_STEP * max(1, math.ceil(most / BOXES_STEP))
    batch = len(truths)
    # Padding has an area, so that encoding it is finite; the masks keep it from meaning anything.
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(batch, length, 1)
    labels = torch.zeros(batch, length, dtype=torch.int64)
    is_object = torch.zeros(batch, length, dtype=torch.bool)
    is_crowd = torch.zeros(batch, length, dtype=torch.bool)
    for row, (row_boxes, row_labels, row_crowd) in enumerate(truths):
        count = len(row_labels)
        boxes[row, :count] = row_boxes
        labels[row, :count] = row_labels
        is_object[row, :count] = ~row_crowd
        is_crowd[row, :count] = row_crowd
    return Targets(boxes, labels, is_object, is_crowd, has_crowd=bool(is_crowd.any()))
