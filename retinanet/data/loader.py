"""Load batches in worker processes; replace unreadable images or raise an error."""

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
from retinanet.structures import Batch

ReadResult = PreparedSample | InputError


def make_loader(
    reader: SampleReader,
    batches: Iterable[list[PlannedImage]],
    *,
    workers: int,
    pin_memory: bool,
    replace_unreadable: bool,
) -> Iterator[Batch]:
    """Load batches in the order of `batches`, regardless of the number of workers.

    Args:
        reader: reads the images.
        batches: the batches to load, from a sampler.
        workers: number of worker processes; 0 loads in the calling process.
        pin_memory: move batches to page-locked memory, for faster copies to a GPU.
        replace_unreadable: replace an unreadable image with another one, chosen deterministically, and record the
            replacement in the batch.

    Raises:
        InputError: an image can be neither read nor replaced. Raised only when its batch is requested.
    """
    loader = DataLoader(
        ReaderDataset(reader, replace_unreadable=replace_unreadable),
        batch_sampler=batches,
        collate_fn=collate_in_worker if workers else collate_read,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=detach_from_signals,
        # The default would draw from the global generator and change its state.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


class ReaderDataset(TorchDataset):
    """Adapter from `SampleReader` to torch's DataLoader.

    Errors are returned and later raised by `make_loader`: an InputError raised in a worker would arrive as a traceback.
    """

    def __init__(self, reader: SampleReader, *, replace_unreadable: bool):
        self.reader = reader
        self.replace_unreadable = replace_unreadable

    def __getitem__(self, planned: PlannedImage) -> ReadResult:
        try:
            return self.reader.read_or_replace(planned) if self.replace_unreadable else self.reader(planned)
        except InputError as error:
            return error


def detach_from_signals(worker: int) -> None:
    """Move a worker to its own process group.

    A shell or torchrun signals every process in the run's group. A worker killed by such a signal could not deliver
    the last batches.
    """
    os.setpgid(0, 0)


def collate_read(results: list[ReadResult]) -> Batch | InputError:
    """Collate the results of `ReaderDataset`, or return the first error among them."""
    prepared = []
    for result in results:
        if isinstance(result, InputError):
            return result
        prepared.append(result)
    unreadable = itertools.chain.from_iterable(entry.unreadable for entry in prepared)
    return collate(prepared)._replace(unreadable=tuple(unreadable))


def collate_in_worker(results: list[ReadResult]) -> "WorkerBatch | InputError":
    """Collate in a worker process, into a batch that is cheap to send."""
    batch = collate_read(results)
    return batch if isinstance(batch, InputError) else WorkerBatch(batch)


class WorkerBatch:
    """A batch in a worker process; the main process unpickles it as a plain `Batch`.

    Sending a tensor takes a shared-memory file and a connection to fetch it. This is worthwhile only for the images;
    the other tensors are sent as bytes.
    """

    def __init__(self, batch: Batch):
        self.batch = batch

    def __reduce__(self) -> tuple[Callable[[Batch], Batch], tuple[Batch]]:
        return _from_arrays, (_convert_small(self.batch, torch.Tensor.numpy),)


def _from_arrays(batch: Batch) -> Batch:
    return _convert_small(batch, torch.from_numpy)


def _convert_small(batch: Batch, convert: Callable) -> Batch:
    """Apply a conversion to all tensors or arrays except the images."""
    return batch._replace(
        image_sizes=convert(batch.image_sizes),
        original_sizes=convert(batch.original_sizes),
        targets=batch.targets.map(convert),
    )
