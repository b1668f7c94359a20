"""Profile individual operations over a few training steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

from retinanet.errors import InputError
from retinanet.runtime.distributed import rank

SKIPPED, WARM_UP, RECORDED = 2, 1, 5  # numbers of steps
ROWS = 40


def check_profile(steps: int) -> None:
    """Check that a run is long enough to be profiled.

    Args:
        steps: number of remaining steps.

    Raises:
        InputError: the run would end before any step is recorded.
    """
    if steps <= SKIPPED + WARM_UP:
        raise InputError(
            f"--profile skips the first {SKIPPED + WARM_UP} steps and records the next {RECORDED}, but this run has "
            f"{steps} left; raise train.steps or train.epochs"
        )


@contextmanager
def profiled(folder: Path | None) -> Iterator[Callable[[], None]]:
    """Profile steps 4 to 8, and write a trace for TensorBoard or chrome://tracing and a text table to `folder`.

    Yields:
        A function to call after each step. It does nothing if `folder` is None.
    """
    if folder is None:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]

    def write(recorded: profile) -> None:
        tensorboard_trace_handler(str(folder))(recorded)
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=order, row_limit=ROWS)
        (folder / f"profile_rank{rank()}.txt").write_text(table + "\n", encoding="utf-8")

    steps = schedule(wait=SKIPPED, warmup=WARM_UP, active=RECORDED, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=write) as recorder:
        yield recorder.step
