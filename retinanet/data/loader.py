"""Load batches in worker processes; an unreadable image is replaced, or ends the run."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from retinanet.data.collate import collate
from retinanet.data.reader import PreparedSample, SampleReader
from retinanet.data.sampler import PlannedImage
from retinanet.errors import InputError
from retinanet.structures import Batch, Unreadable

ReadResult = tuple[PreparedSample, list[Unreadable]] | InputError


def make_loader(
    reader: SampleReader,
    batches: Iterable[list[PlannedImage]],
    *,
    workers: int,
    pin_memory: bool,
    replace_unreadable: bool,
) -> Iterator[Batch]:
    """Load batches in the order of `batches`, for any number of workers.

    Args:
        reader: reads the images.
        batches: from a sampler.
        workers: number of worker processes; 0 reads in this one.
        pin_memory: copy batches to page-locked memory, for faster copies to a GPU.
        replace_unreadable: replace an unreadable image with another one, chosen deterministically, and record this
            in the batch.

    Raises:
        InputError: an image can be neither read nor replaced. Raised when its batch is requested, not earlier.
    """
    loader = DataLoader(
        ReaderDataset(reader, replace_unreadable=replace_unreadable),
        batch_sampler=batches,
        collate_fn=collate_in_worker if workers else collate_read,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=detach_from_signals,
        # The default generator is the global one, whose state belongs to the run.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


class ReaderDataset(TorchDataset):
    """Adapter from `SampleReader` to torch's DataLoader.

    It returns an InputError, and `make_loader` raises it: raised in a worker, it would arrive as a traceback.
    """

    def __init__(self, reader: SampleReader, *, replace_unreadable: bool):
        self.reader = reader
        self.replace_unreadable = replace_unreadable

    def __getitem__(self, planned: PlannedImage) -> ReadResult:
        try:
            try:
                return self.reader(planned), []
            except InputError as error:
                if not self.replace_unreadable:
                    raise
                return self.reader.replace(planned, error)
        except InputError as error:
            return error


def detach_from_signals(worker: int) -> None:
    """Put a worker in its own process group.

    A shell or torchrun signals every process in the group of the run. A worker killed by such a signal could not
    deliver the batches of the last steps.
    """
    os.setpgid(0, 0)


def collate_read(results: list[ReadResult]) -> Batch | InputError:
    """Collate what `ReaderDataset` returned; the first error, if there is one."""
    for result in results:
        if isinstance(result, InputError):
            return result
    prepared, unreadable = zip(*results, strict=True)
    return collate(prepared)._replace(unreadable=tuple(itertools.chain.from_iterable(unreadable)))


def collate_in_worker(results: list[ReadResult]) -> "WorkerBatch | InputError":
    """Collate in a worker process."""
    batch = collate_read(results)
    return batch if isinstance(batch, InputError) else WorkerBatch(batch)


class WorkerBatch:
    """A batch in a worker process that is unpickled as a plain `Batch` in the main process.

    Sending a tensor costs a file in shared memory and a connection to fetch it. That pays off for the images only;
    the other tensors are sent as bytes.
    """

    def __init__(self, batch: Batch):
        self.batch = batch

    def __reduce__(self) -> tuple[Callable[[Batch], Batch], tuple[Batch]]:
        return _from_arrays, (_convert_small(self.batch, torch.Tensor.numpy),)


def _from_arrays(batch: Batch) -> Batch:
    return _convert_small(batch, torch.from_numpy)


def _convert_small(batch: Batch, convert: Callable) -> Batch:
    """Apply a conversion to all tensors or arrays but the images."""
    targets = batch.targets
    return batch._replace(
        image_sizes=convert(batch.image_sizes),
        original_sizes=convert(batch.original_sizes),
        targets=targets._replace(
            boxes=convert(targets.boxes),
            labels=convert(targets.labels),
            is_object=convert(targets.is_object),
            is_crowd=convert(targets.is_crowd),
        ),
    )
