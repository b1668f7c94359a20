"""Several processes that train together, started by torchrun. In a single process everything here does nothing.

Rank 0 is the main process: it alone writes files and speaks, but for what concerns one rank only.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from retinanet.errors import InputError

Result = TypeVar("Result")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def is_launched() -> bool:
    """Whether torchrun, or something that sets the same variables, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_restarted() -> bool:
    """Whether torchrun has started the workers anew after one of them died: the run then goes on by itself."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch_id() -> str | None:
    """Of one start of torchrun, the same after it has restarted its workers; None without it."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')} {os.getppid()}" if is_launched() else None


def local_device(device: torch.device) -> torch.device:
    """The device of this process: of CUDA devices each takes its own, in the order of local ranks.

    Raises:
        InputError: one device was named for all, or there are too few.
    """
    if not is_launched() or device.type != "cuda":
        return device
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.index is not None:
        raise InputError(
            f"device is {device} under torchrun, where every process takes its own; set device=cuda or device=auto"
        )
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"torchrun started process {local_rank} on a machine with {torch.cuda.device_count()} GPUs; give "
            "--nproc_per_node at most their number"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


@contextmanager
def process_group(device: torch.device, *, timeout: float) -> Iterator[dist.Store | None]:
    """Join the processes that torchrun has started, and leave them at the end.

    Args:
        device: of this process; its collectives run through NCCL on CUDA, through gloo on a CPU.
        timeout: seconds that one process waits for the others before it gives up.

    Yields:
        The store that all of them share, None in a single process.
    """
    if not is_launched():
        yield None
        return
    environ = os.environ
    number, count = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    patience = timedelta(seconds=timeout)
    tcp_store = dist.TCPStore(
        environ["MASTER_ADDR"],
        int(environ["MASTER_PORT"]),
        count,
        # torchrun has one running already, unless it was told to leave that to the workers.
        is_master=number == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        timeout=patience,
    )
    # The launcher's store outlives its workers: without a name for each attempt, new ones would find the addresses of
    # those that died.
    store = dist.PrefixStore(f"attempt_{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", tcp_store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore("group", store),
        rank=number,
        world_size=count,
        timeout=patience,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield dist.PrefixStore("run", store)
    finally:
        dist.destroy_process_group()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of every rank's tensor, in place, on each of them."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def gather(value: Any) -> list[Any] | None:
    """A value of every rank, in their order, on the main process; None on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values)
    return values


def broadcast(value: Any) -> Any:
    """The main process's value, on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def broadcast_tensors(tensors: list[Tensor]) -> None:
    """The main process's tensors, in place, on every rank."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def share_of(items: list[Any], part: int, parts: int) -> list[Any]:
    """One of `parts` slices of a list, as equal as they can be; together they are the list."""
    return items[part * len(items) // parts : (part + 1) * len(items) // parts]


def on_main(action: Callable[[], Result]) -> Result:
    """What an action of the main process returns, on every rank; an InputError that it raises, too."""
    if world_size() == 1:
        return action()
    result, problem = None, None
    if is_main():
        try:
            result = action()
        except InputError as error:
            problem = str(error)
    result, problem = broadcast((result, problem))
    if problem is not None:
        raise InputError(problem)
    return result
