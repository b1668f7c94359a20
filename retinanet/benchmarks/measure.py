"""How a call is measured: time in interleaved rounds, peak memory, and reads that make a device wait for the host."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from retinanet.engine.evaluate import progress

READING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::equal",
    "aten::allclose",
    "aten::bincount",
    "aten::repeat_interleave",
    "torchvision::nms",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}  # they read where an index is a mask

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would announce each start and stop

MOST_UNTIMED_CALLS = 3  # of each contestant, before the first round: warm-up, host reads, peak memory


class HostReads(TorchDispatchMode, list):
    """A context manager that lists the operations inside it, also of backward, that make a device wait for the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        parts = in_parts(self, func, args, kwargs or {})
        if parts is not NotImplemented:
            return parts
        name = func._schema.name
        indices = args[1] if name in INDEXING else []
        if name in READING or any(index is not None and index.dtype == torch.bool for index in indices):
            self.append(name)
        return func(*args, **(kwargs or {}))


def in_parts(mode: TorchDispatchMode, func: torch._ops.OpOverload, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The result of an operation made of others, with those seen by the mode; NotImplemented for a simple one.

    Autograd takes such operations apart before a mode sees them. Inference mode has no autograd.
    """
    if not torch.is_inference_mode_enabled():
        return NotImplemented
    with mode:
        return func.decompose(*args, **kwargs)


def nothing() -> None:
    """For a call that leaves nothing behind."""


def accept(result: Any) -> None:
    """For a call whose result needs no check."""


class Contestant(NamedTuple):
    name: str
    call: Callable[[], object]
    clean_up: Callable[[], object] = nothing  # after each call, outside the clock: gradients, for one
    check: Callable[[Any], None] = accept  # of what the first call gave; raises where it is not the work it should be
    on_device: bool = True  # False where the work is not torch's: neither memory nor host reads mean anything then
    compiled: bool = False  # torch.compile refuses to run where operations are listed: host reads are not counted


class Measurement(NamedTuple):
    """Of one contestant."""

    seconds: list[float]  # one a round, in the order of the rounds
    peak_bytes: int | None  # of new allocations during one call
    host_reads: int | None  # of one call

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        return min(self.seconds)


class Ratio(NamedTuple):
    """How many times as long as ours another one takes: over 1, ours is faster."""

    of_medians: float
    of_rounds: float  # median of the ratios within each round: what slows a whole round does not count


def ratio(other: Measurement, ours: Measurement) -> Ratio:
    within = [theirs / own for theirs, own in zip(other.seconds, ours.seconds, strict=True)]
    return Ratio(other.median / ours.median, statistics.median(within))


def compete(
    contestants: Sequence[Contestant], *, rounds: int, device: torch.device, what: str
) -> dict[str, Measurement]:
    """Measure each contestant once a round, in an order that moves on by one from round to round.

    One machine is never equally fast twice: what happens in a round happens to all. The calls before the first round
    are not timed; the first of them is the warm-up, the others see memory and host reads.

    Args:
        contestants: with names of their own.
        rounds: at least 1.
        what: for the progress bar.
    """
    bar = progress(None, what, len(contestants) * (rounds + MOST_UNTIMED_CALLS))
    peaks: dict[str, int | None] = {}
    reads: dict[str, int | None] = {}
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    assert len(seconds) == len(contestants), [contestant.name for contestant in contestants]
    try:
        for contestant in contestants:
            contestant.check(_step(bar, contestant, contestant.call))
            call, name = contestant.call, contestant.name
            reads[name] = peaks[name] = None
            if contestant.on_device and not contestant.compiled:
                reads[name] = _step(bar, contestant, partial(count_host_reads, call))
            if contestant.on_device:
                peaks[name] = _step(bar, contestant, partial(peak_memory, call, device))
        gc.collect()
        for number in range(rounds):
            first = number % len(contestants)
            for contestant in (*contestants[first:], *contestants[:first]):
                look = partial(duration, contestant.call, device)
                seconds[contestant.name].append(_step(bar, contestant, look))
    finally:
        bar.close()
    return {name: Measurement(seconds[name], peaks[name], reads[name]) for name in seconds}


def _step(bar: tqdm, contestant: Contestant, look: Callable[[], Any]) -> Any:
    bar.set_postfix_str(contestant.name)
    result = look()
    contestant.clean_up()
    bar.update()
    return result


def duration(call: Callable[[], object], device: torch.device) -> float:
    """Seconds until a call is done, on its device too."""
    wait_for(device)
    start = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def count_host_reads(call: Callable[[], object]) -> int:
    with HostReads() as reads:
        call()
    return len(reads)


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes that tensors made by a call hold at one time, its result included.

    On a CPU they are those of torch's allocator, as its profiler sees them: work space that a library takes for
    itself is not among them. On CUDA they are the allocator's own figure.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    held = peak = 0
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak
