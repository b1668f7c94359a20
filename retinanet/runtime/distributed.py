"""Process groups started by torchrun. With a single process, no communication takes place.

Rank 0 is the main process. Only the main process writes files and logs, except for reports about a specific rank.
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
    """Rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the group; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the main process."""
    return rank() == 0


def is_launched() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_restarted() -> bool:
    """Whether torchrun restarted the workers after one of them died, in which case the run resumes automatically."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch_id() -> str | None:
    """Identifier of a torchrun launch, unchanged when torchrun restarts its workers; None without torchrun."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')} {os.getppid()}" if is_launched() else None


def local_device(device: torch.device) -> torch.device:
    """Device of this process. With CUDA, the local rank selects a separate GPU for each process.

    Raises:
        InputError: the setting names one specific GPU for all processes, or there are too few GPUs.
    """
    if not is_launched() or device.type != "cuda":
        return device
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.index is not None:
        raise InputError(
            f"device is {device} under torchrun, which gives every process its own GPU; set device=cuda or device=auto"
        )
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"torchrun started process {local_rank} on a machine with {torch.cuda.device_count()} GPUs; set "
            "--nproc_per_node to at most that number"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


@contextmanager
def process_group(device: torch.device, *, timeout: float) -> Iterator[dist.Store | None]:
    """Join the process group started by torchrun, and leave it on exit.

    Args:
        device: device of this process; collectives use NCCL on CUDA and gloo on a CPU.
        timeout: seconds to wait for other processes before failing.

    Yields:
        The store shared by all processes; None without torchrun.
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
        # torchrun already hosts a store, unless it is configured to let the workers host it.
        is_master=number == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        timeout=patience,
    )
    # The launcher's store outlives the workers: without a separate prefix for each attempt, restarted workers would
    # find the addresses of dead ones.
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
    """Sum a tensor over all processes, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def gather(value: Any) -> list[Any] | None:
    """Gather a value from every process on the main process, in rank order; None on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values)
    return values


def broadcast(value: Any) -> Any:
    """Return the main process's value on every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def broadcast_tensors(tensors: list[Tensor]) -> None:
    """Overwrite the tensors on every process with those of the main process."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def share_of(items: list[Any], part: int, parts: int) -> list[Any]:
    """Return one of `parts` consecutive slices of a list, whose lengths differ by at most one item."""
    return items[part * len(items) // parts : (part + 1) * len(items) // parts]


def on_main(action: Callable[[], Result]) -> Result:
    """Run an action on the main process only, but return its result, or raise its InputError, on every process."""
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
