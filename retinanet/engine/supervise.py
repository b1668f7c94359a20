"""Run the processes of a training run: join them, stop them together, watch for stalls, and report failures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from retinanet.config import Config
from retinanet.engine.run_files import is_run_folder
from retinanet.runtime.activity import Activity
from retinanet.runtime.device import resolve_device, set_determinism
from retinanet.runtime.distributed import is_launched, is_main, process_group, rank, world_size
from retinanet.runtime.failure import report_failure
from retinanet.runtime.logging import start_logging
from retinanet.runtime.memory import explained
from retinanet.runtime.spawn import exit_if_spawned, workers_explained
from retinanet.runtime.stop import StopRequest, write_preempted
from retinanet.runtime.watchdog import Watchdog, end_with_parent

GROUP_TIMEOUT = 2.0  # timeout of collectives as a multiple of the watchdog's, so that the watchdog reports first


class Supervised(NamedTuple):
    """Resources that the process provides to a run."""

    device: torch.device
    stop: StopRequest
    activity: Activity


@contextmanager
def supervised(cfg: Config, folder: Path) -> Iterator[Supervised]:
    """Prepare this process for training, and clean up on exit. Under torchrun, all processes call it together.

    Args:
        folder: receives reports about stalls and failures, and the marker of a preempted run.

    Raises:
        InputError: the device cannot be used, memory ran out, or another process failed.
    """
    exit_if_spawned()
    set_determinism(cfg.train.deterministic)
    torch.manual_seed(cfg.train.seed)
    device, activity, timeout = resolve_device(cfg.device), Activity(), cfg.train.stall_timeout

    def give_up(signal_name: str) -> None:
        """Mark the run as preempted if the grace period ends before it can save, so that a scheduler can restart it."""
        if is_run_folder(folder):
            write_preempted(folder, step=None, signal_name=signal_name)

    if is_launched():
        end_with_parent()
    with (
        process_group(device, timeout=GROUP_TIMEOUT * timeout) as store,
        StopRequest(store, grace=cfg.train.grace, rank=rank(), world_size=world_size(), give_up=give_up) as stop,
        Watchdog(store, activity, rank=rank(), world_size=world_size(), timeout=timeout, folder=folder),
    ):
        start_logging(silent=not is_main())
        try:
            with explained(cfg, activity), workers_explained():
                yield Supervised(device, stop, activity)
        except Exception as error:
            report_failure(store, folder, error, rank=rank(), world_size=world_size(), doing=str(activity))
            raise
