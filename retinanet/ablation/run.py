"""Runs, one after the other, by as many processes as are started on their folder."""

import logging
import time
from pathlib import Path
from typing import NamedTuple

from retinanet.ablation.results import ResultsFile, RunResult, claimed, config_hash
from retinanet.ablation.table import Job
from retinanet.data.build import load_train_data, load_val_data
from retinanet.engine.environment import environment_record
from retinanet.engine.nonfinite.guard import NonFiniteGradient
from retinanet.engine.train import TrainResult, train
from retinanet.errors import InputError, make_folder
from retinanet.runtime.device import resolve_device, resolve_precision
from retinanet.runtime.distributed import is_launched

log = logging.getLogger(__name__)

LONGEST_MESSAGE = 500  # characters; the whole one is in the log of the run


class Outcome(NamedTuple):
    elsewhere: list[Job]  # that other processes are at
    is_preempted: bool  # told to stop; the run at hand can go on


def run_jobs(jobs: list[Job], folder: Path) -> Outcome:
    """Do every run that is not done and that no other process is at. A run that was interrupted goes on.

    A run that diverges, or fails by a fault of ours, is written down with its message, and the others go on.

    Args:
        folder: holds `results.jsonl`, and `runs/` with a folder and a lock file for each config, named by its hash.
            Any number of processes may work on it, for one table or several, on several machines where they share its
            disk and its locks.

    Raises:
        InputError: of the data, or of one of the runs; those before it are done.
    """
    if is_launched():
        raise InputError(
            "ablate runs in single processes, not under torchrun: start the same command once for each GPU, each with "
            "a device of its own (device=cuda:1); they share the runs among them"
        )
    make_folder(folder / "runs")
    results_file = ResultsFile(folder)
    # Before the first run: what is wrong with the data is wrong for all of them, and no result.
    load_val_data(jobs[0].cfg, load_train_data(jobs[0].cfg).class_names)
    elsewhere: list[Job] = []
    for number, job in enumerate(jobs, start=1):
        name = config_hash(job.cfg)
        run_folder = folder / "runs" / name
        with claimed(run_folder.with_name(f"{name}.lock")) as is_ours:
            if not is_ours:
                elsewhere.append(job)
                continue
            # Read under the lock: the process that had it before may have finished the run.
            done = results_file.read().get(name)
            if done and done.is_final:
                continue
            log.info("run %d of %d: %s, seed %d, in %s", number, len(jobs), job.row, job.seed, run_folder)
            result = run_job(job, run_folder)
            if result is None:
                return Outcome(elsewhere, is_preempted=True)
            results_file.append(result)
    return Outcome(elsewhere, is_preempted=False)


def results_of(jobs: list[Job], folder: Path) -> dict[tuple[str, int], RunResult]:
    """What is known of them, by row and seed, whichever table it was made for."""
    known = ResultsFile(folder).read()
    return {(job.row, job.seed): known[name] for job in jobs if (name := config_hash(job.cfg)) in known}


def run_job(job: Job, folder: Path) -> RunResult | None:
    """Train, from the last checkpoint where there is one. None: it was told to stop.

    Raises:
        InputError: by its row: something about the config, the data or the machine is to be mended first.
    """
    start = time.perf_counter()
    trained: TrainResult | None = None
    status, message, steps = "finished", None, 0
    try:
        trained = train(job.cfg, folder, resume=True)
    except NonFiniteGradient as error:
        status, message, steps = "diverged", str(error), error.bad_step.step - 1
    except InputError as error:  # somebody's to mend, and likely in the way of the other runs too
        raise InputError(f"row {job.row!r}, seed {job.seed}: {error}") from None
    except Exception as error:  # of one run: the others may go through
        log.exception("%s, seed %d failed", job.row, job.seed)
        status, message = "failed", f"{type(error).__name__}: {error}"
    if trained is None:
        log.error("%s, seed %d %s: %s", job.row, job.seed, status, message)
    elif trained.is_preempted:
        return None
    described = environment_record()
    device = resolve_device(job.cfg.device)
    device_name = described["accelerator"] if device.type == "cuda" else f"{device.type} {described['cpu_capability']}"
    dtype = resolve_precision(device, job.cfg.train.precision)
    return RunResult(
        row=job.row,
        seed=job.seed,
        status=status,
        metrics=_known(trained.metrics) if trained else {},
        message=message[:LONGEST_MESSAGE] if message else None,
        steps=trained.step if trained else steps,
        seconds=trained.seconds if trained else time.perf_counter() - start,
        config_hash=config_hash(job.cfg),
        commit=described["git_commit"],
        computed_on=f"{device_name}, {str(dtype).removeprefix('torch.')}",
        versions={"python": described["python"], **described["packages"]},
    )


def _known(metrics: dict[str, float]) -> dict[str, float | None]:
    """JSON has no nan."""
    return {name: None if value != value else value for name, value in metrics.items()}
