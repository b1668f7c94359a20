"""Measure how a run spends its time: data, steps, evaluation, saving."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

DATA_BOUND_SHARE = 0.3  # if more than this fraction is spent waiting for data, the log suggests faster data loading


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
        self._steps, self._step_seconds = 0, 0.0  # since the process started, to estimate the time left

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Attribute the time spent in the `with` block to "data", "evaluation" or "saving"."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[activity] = self._spent.get(activity, 0.0) + time.perf_counter() - start

    def count_step(self, images: int) -> None:
        """Count a completed step and its images."""
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

    def time_left(self, steps: int) -> timedelta:
        """Estimate the time for `steps` more steps at the average speed so far, excluding evaluation and saving."""
        return timedelta(seconds=round(steps * self._step_seconds / max(1, self._steps)))


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
