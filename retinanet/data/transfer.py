"""Transfer batches from the host to the compute device."""

from collections.abc import Iterable, Iterator

import torch

from retinanet.structures import Batch


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield each batch on the device, in order.

    On CUDA, batches are copied from pinned memory on a separate stream while earlier steps are still running, and the
    host does not wait. How much of the copy time this hides has not been measured.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    copies = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            batch = batch.to(device)
        current = torch.cuda.current_stream(device)
        current.wait_stream(copies)
        for tensor in batch.tensors():
            tensor.record_stream(current)  # otherwise its memory could be reused while the step still reads it
        yield batch
