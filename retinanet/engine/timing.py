"""Where the time of a run goes: data, steps, evaluation, saving."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

DATA_IS_THE_BRAKE = 0.3  # of the time


class Clock:
    """Wall time by what it was spent on, since the last reading and over the whole run.

    What is not named is the step. On CUDA the host runs ahead of the device, so that the wait for data shows only where
    it is longer than the computing: where it is the brake.

    Args:
        before: seconds that earlier parts of a resumed run took.
    """

    def __init__(self, *, before: float):
        self._before = before
        self._start = time.perf_counter()
        self._since = self._start
        self._spent: dict[str, float] = {}
        self._window_steps = self._window_images = 0
        self._steps, self._step_seconds = 0, 0.0  # over the whole process, for the time left

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """`what` is "data", "evaluation" or "saving"."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[what] = self._spent.get(what, 0.0) + time.perf_counter() - start

    def stepped(self, images: int) -> None:
        """One step is done."""
        self._window_steps += 1
        self._window_images += images

    @property
    def run_seconds(self) -> float:
        """Of the run so far, with all its resumptions."""
        return self._before + time.perf_counter() - self._start

    def read(self) -> dict[str, float]:
        """Images a second while training, and the shares of the time since the last reading."""
        now = time.perf_counter()
        total, spent = now - self._since, self._spent
        idle = spent.get("evaluation", 0.0) + spent.get("saving", 0.0)
        self._steps += self._window_steps
        images = self._window_images
        self._window_steps = self._window_images = 0
        self._step_seconds += total - idle
        self._since, self._spent = now, {}
        return {
            "images_per_s": images / (total - idle),
            "data_share": spent.get("data", 0.0) / total,
            "step_share": (total - idle - spent.get("data", 0.0)) / total,
            "evaluation_share": spent.get("evaluation", 0.0) / total,
            "saving_share": spent.get("saving", 0.0) / total,
        }

    def left(self, steps: int) -> timedelta:
        """For so many further steps, at the mean rate so far, without evaluations."""
        return timedelta(seconds=round(steps * self._step_seconds / max(1, self._steps)))


TIMES = ("images_per_s", "data_share", "step_share", "evaluation_share", "saving_share")


def describe_times(figures: dict[str, float]) -> str:
    """For a line of the log, with advice where reading images is what holds training up."""
    shares = {name: figures[f"{name}_share"] for name in ("data", "step", "evaluation", "saving")}
    text = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name == "step" or share >= 0.005)
    if shares["data"] > DATA_IS_THE_BRAKE:
        text += "; images come too slowly: raise data.workers, or store them smaller"
    return text
