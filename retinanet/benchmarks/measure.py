"""Measure functions: time in interleaved rounds, peak memory, and operations that make the host wait for the device."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from retinanet.runtime.console import PlainProgress, ProgressBar, progress

HOST_READING_OPS = {
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
INDEXING_OPS = {"aten::index", "aten::index_put", "aten::index_put_"}  # synchronise if any index is a boolean mask

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler logs every start and stop

MAX_UNTIMED_CALLS = 3  # per variant, before the first round: for warm-up, device synchronisations, peak memory


class HostReads(TorchDispatchMode, list):
    """Context manager that lists the operations, including backward ones, that make the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        parts = decompose(self, func, args, kwargs or {})
        if parts is not NotImplemented:
            return parts
        name = func._schema.name
        indices = args[1] if name in INDEXING_OPS else []
        if name in HOST_READING_OPS or any(index is not None and index.dtype == torch.bool for index in indices):
            self.append(name)
        return func(*args, **(kwargs or {}))


def decompose(mode: TorchDispatchMode, func: torch._ops.OpOverload, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Decompose a composite operation so that the mode sees its parts; return NotImplemented for any other operation.

    Normally autograd decomposes composite operations before the mode sees them, but inference mode has no autograd.
    """
    if not torch.is_inference_mode_enabled():
        return NotImplemented
    with mode:
        return func.decompose(*args, **kwargs)


def no_clean_up() -> None:
    """Do nothing: the default of `Variant.clean_up`."""


def no_check(result: Any) -> None:
    """Accept any result: the default of `Variant.check`."""


class Variant(NamedTuple):
    """One of the implementations compared in a benchmark."""

    name: str
    call: Callable[[], object]
    clean_up: Callable[[], object] = no_clean_up  # runs untimed after each call, for example to drop gradients
    check: Callable[[Any], None] = (
        no_check  # checks the result of the first call; raises if the variant computed something else
    )
    on_device: bool = True  # False if torch does not do the work: memory and synchronisations are not measured
    compiled: bool = False  # torch.compile does not run under a dispatch mode: synchronisations are not counted


class Measurement(NamedTuple):
    """Measurements of one variant."""

    seconds: list[float]  # one value per round, in order
    peak_bytes: int | None  # peak of new allocations during one call
    host_reads: int | None  # device synchronisations in one call

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        return min(self.seconds)


class Ratio(NamedTuple):
    """Ratio of the variant's time to ours; above 1, ours is faster."""

    of_medians: float
    of_rounds: float  # median of the per-round ratios, unaffected by slow rounds


def ratio(other: Measurement, ours: Measurement) -> Ratio:
    within = [theirs / own for theirs, own in zip(other.seconds, ours.seconds, strict=True)]
    return Ratio(other.median / ours.median, statistics.median(within))


def compare(variants: Sequence[Variant], *, rounds: int, device: torch.device, what: str) -> dict[str, Measurement]:
    """Time each variant once per round, in an order that rotates by one from round to round.

    The speed of a machine varies over time, but within a round this affects all variants equally. Before the first
    round, each variant is called without timing, for warm-up and to measure device synchronisations and peak memory.

    Args:
        variants: the variants to compare, with unique names.
        rounds: the number of rounds, at least 1.
        what: label for the progress bar.
    """
    bar = progress(None, what, len(variants) * (rounds + MAX_UNTIMED_CALLS))
    peaks: dict[str, int | None] = {}
    reads: dict[str, int | None] = {}
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    assert len(seconds) == len(variants), [variant.name for variant in variants]
    try:
        for variant in variants:
            variant.check(_run(bar, variant, variant.call))
            call, name = variant.call, variant.name
            reads[name] = peaks[name] = None
            if variant.on_device and not variant.compiled:
                reads[name] = _run(bar, variant, partial(count_host_reads, call))
            if variant.on_device:
                peaks[name] = _run(bar, variant, partial(peak_memory, call, device))
        gc.collect()
        for number in range(rounds):
            first = number % len(variants)
            for variant in (*variants[first:], *variants[:first]):
                measure = partial(time_call, variant.call, device)
                seconds[variant.name].append(_run(bar, variant, measure))
    finally:
        bar.close()
    return {name: Measurement(seconds[name], peaks[name], reads[name]) for name in seconds}


def _run(bar: ProgressBar | PlainProgress, variant: Variant, measure: Callable[[], Any]) -> Any:
    bar.set_postfix_str(variant.name)
    result = measure()
    variant.clean_up()
    bar.update()
    return result


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Time a call in seconds, including its work on the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def count_host_reads(call: Callable[[], object]) -> int:
    with HostReads() as reads:
        call()
    return len(reads)


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Peak memory in bytes of the tensors allocated by a call, including its result.

    On a CPU, this is the memory of torch's allocator as recorded by the profiler, without workspaces that libraries
    allocate themselves. On CUDA, it is the peak reported by the caching allocator.
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
