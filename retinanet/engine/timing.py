"""Measure the time a run spends on data, steps, evaluation and saving, and the duration of its first steps."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import torch

from retinanet.runtime.console import format_bytes, format_duration
from retinanet.runtime.memory import peak_memory

DATA_BOUND_SHARE = 0.3  # if more than this fraction is spent waiting for data, the log suggests faster data loading
WARM_UP_STEPS, MEASURED_STEPS = 2, 3  # the first steps are slower: they allocate memory and select or compile kernels
ENOUGH_SECONDS = 60.0  # two or more steps with this total duration are enough for an estimate


class FirstSteps:
    """Times the first steps of a process individually, for an early estimate of the duration of the run.

    On an accelerator, these steps wait for the device.
    """

    def __init__(self, device: torch.device):
        self.seconds: list[float] = []
        self._device = device

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Time the step in the `with` block, unless enough steps have been timed."""
        if self.are_enough:
            yield
            return
        start = time.perf_counter()
        yield
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        self.seconds.append(time.perf_counter() - start)

    @property
    def are_enough(self) -> bool:
        """Whether `step_seconds` is meaningful."""
        count = len(self.seconds)
        return count == WARM_UP_STEPS + MEASURED_STEPS or (count > 1 and sum(self.seconds) >= ENOUGH_SECONDS)

    @property
    def warm_up(self) -> int:
        """Number of warm-up steps, which are not counted."""
        return min(WARM_UP_STEPS, len(self.seconds) - 1)

    @property
    def step_seconds(self) -> float:
        """Median step time in seconds, excluding warm-up steps."""
        return statistics.median(self.seconds[self.warm_up :])

    def describe(self, steps: int, evaluations: int) -> str:
        """Describe the speed, the time left, and the peak memory so far."""
        left = steps * self.step_seconds
        memory = peak_memory(self._device)
        peak = "" if memory is None else f"; peak memory {format_bytes(memory)}"
        besides = f", not counting {evaluations} evaluation{'s' * (evaluations > 1)}" if evaluations else ""
        return (
            f"{format_duration(self.step_seconds)} per step (median of {len(self.seconds) - self.warm_up}): "
            f"{format_duration(left)} left for {steps} steps{besides}, until {expected_end(left)}{peak}"
        )


def expected_end(seconds: float) -> str:
    """Local date and time after a number of seconds, such as 2026-11-30 08:45."""
    return (datetime.now() + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M")


class RunTimer:
    """Tracks wall-clock time by activity since the last reading, and the duration of the whole run.

    Any time not attributed to another activity counts as steps. On CUDA the host runs ahead of the device, so waiting
    for data shows up only if it takes longer than the computation, that is, when data loading is the bottleneck.

    Args:
        earlier: duration of the run in seconds before it was resumed.
    """

    def __init__(self, *, earlier: float):
        self._earlier = earlier
        self._start = time.perf_counter()
        self._last_reading = self._start
        self._spent: dict[str, float] = {}
        self._window_steps = self._window_images = 0
        # Totals since the process started, to estimate the time left.
        self._steps, self._step_seconds = 0, 0.0
        self._evaluations, self._evaluation_seconds = 0, 0.0

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Attribute the time spent in the `with` block to "data", "evaluation" or "saving"."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._spent[activity] = self._spent.get(activity, 0.0) + seconds
            if activity == "evaluation":
                self._evaluations += 1
                self._evaluation_seconds += seconds

    def count_step(self, images: int) -> None:
        """Record a completed step and its number of images."""
        self._window_steps += 1
        self._window_images += images

    @property
    def run_seconds(self) -> float:
        """Duration of the run so far in seconds, including the time before it was resumed."""
        return self._earlier + time.perf_counter() - self._start

    def read(self) -> dict[str, float]:
        """Return images per second while training, and the fraction of time per activity, since the last reading."""
        now = time.perf_counter()
        total, spent = now - self._last_reading, self._spent
        idle = spent.get("evaluation", 0.0) + spent.get("saving", 0.0)
        self._steps += self._window_steps
        images = self._window_images
        self._window_steps = self._window_images = 0
        self._step_seconds += total - idle
        self._last_reading, self._spent = now, {}
        return {
            "images_per_s": images / (total - idle),
            "data_share": spent.get("data", 0.0) / total,
            "step_share": (total - idle - spent.get("data", 0.0)) / total,
            "evaluation_share": spent.get("evaluation", 0.0) / total,
            "saving_share": spent.get("saving", 0.0) / total,
        }

    def time_left(self, steps: int, evaluations: int) -> float:
        """Estimate how many seconds the remaining steps and evaluations take at the average speed so far.

        The time to save checkpoints is not included, nor are evaluations before the first one has been timed.
        """
        of_steps = steps * self._step_seconds / max(1, self._steps)
        return of_steps + evaluations * self._evaluation_seconds / max(1, self._evaluations)


def describe_timing(timing: dict[str, float]) -> str:
    """Format the time fractions for a log line, with advice if data loading is the bottleneck.

    Args:
        timing: the return value of `RunTimer.read`.
    """
    shares = {name: timing[f"{name}_share"] for name in ("data", "step", "evaluation", "saving")}
    text = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name == "step" or share >= 0.005)
    if shares["data"] > DATA_BOUND_SHARE:
        text += "; data loading is the bottleneck: raise data.workers or store smaller images"
    return text
