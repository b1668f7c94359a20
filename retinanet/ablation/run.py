"""Train the runs of a table one after another. Any number of processes can share the work through a folder."""

import logging
import time
from pathlib import Path
from typing import NamedTuple

from retinanet.ablation.results import RESULTS_VERSION, ResultsFile, RunResult, config_hash
from retinanet.ablation.table import Job
from retinanet.data.build import load_train_data, load_val_data
from retinanet.engine.environment import environment_record
from retinanet.engine.nonfinite.guard import NonFiniteGradient
from retinanet.engine.result import TrainResult
from retinanet.engine.train import train
from retinanet.errors import InputError, make_folder
from retinanet.runtime.device import resolve_device, resolve_precision
from retinanet.runtime.distributed import is_launched
from retinanet.runtime.lock import try_lock

log = logging.getLogger(__name__)

MAX_MESSAGE = 500  # characters; the log of the run has the full message


class JobsOutcome(NamedTuple):
    """Outcome of `run_jobs`."""

    elsewhere: list[Job]  # running in other processes
    is_preempted: bool  # stopped by a signal; the interrupted run can be resumed


def run_jobs(jobs: list[Job], folder: Path) -> JobsOutcome:
    """Train every run that is neither finished nor running in another process. Interrupted runs are resumed.

    A run that diverges or fails with an unexpected error is recorded with its message, and the remaining runs continue.

    Args:
        folder: contains `results.jsonl`, and `runs/` with a folder and a lock file per config, named by its hash. Any
            number of processes can use it at once, for one or more tables, even on several machines if their shared
            file system supports locks.

    Raises:
        InputError: the data or the config of a run has an error. The runs before it have been recorded.
    """
    if is_launched():
        raise InputError(
            "ablate does not run under torchrun: start the same command once per GPU, each with its own device "
            "(device=cuda:1); the processes divide the runs among themselves"
        )
    make_folder(folder / "runs")
    results_file = ResultsFile(folder)
    # Check the data before the first run: a data error affects all runs and is not a result.
    load_val_data(jobs[0].cfg, load_train_data(jobs[0].cfg).class_names)
    elsewhere: list[Job] = []
    for number, job in enumerate(jobs, start=1):
        name = config_hash(job.cfg)
        run_folder = folder / "runs" / name
        with try_lock(run_folder.with_name(f"{name}.lock")) as is_ours:
            if not is_ours:
                elsewhere.append(job)
                continue
            # Read while holding the lock: its previous holder may have finished the run.
            done = results_file.read().get(name)
            if done and done.is_final:
                continue
            log.info("run %d of %d: %s, seed %d, in %s", number, len(jobs), job.row, job.seed, run_folder)
            result = run_job(job, run_folder)
            if result is None:
                return JobsOutcome(elsewhere, is_preempted=True)
            results_file.append(result)
    return JobsOutcome(elsewhere, is_preempted=False)


def known_results(jobs: list[Job], folder: Path, *, version: int = RESULTS_VERSION) -> dict[tuple[str, int], RunResult]:
    """The recorded results of the jobs by row and seed, including results recorded for other tables."""
    known = ResultsFile(folder).read()
    names = {(job.row, job.seed): config_hash(job.cfg, version=version) for job in jobs}
    return {run: known[name] for run, name in names.items() if name in known}


def newest_version(jobs: list[Job], folder: Path) -> int:
    """The newest version with a recorded result for any of the jobs; the current version if there is none."""
    versions = range(RESULTS_VERSION, 0, -1)
    return next((version for version in versions if known_results(jobs, folder, version=version)), RESULTS_VERSION)


def run_job(job: Job, folder: Path) -> RunResult | None:
    """Train one run, resuming from its last checkpoint if there is one; return None if a signal stopped it.

    Raises:
        InputError: a problem with the config, the data or the machine must be fixed first; the message names the row.
    """
    start = time.perf_counter()
    trained: TrainResult | None = None
    status, message, steps = "finished", None, 0
    try:
        trained = train(job.cfg, folder, resume="auto")
    except NonFiniteGradient as error:
        status, message, steps = "diverged", str(error), error.bad_step.step - 1
    except InputError as error:  # a user error that would probably fail the other runs as well
        raise InputError(f"row {job.row!r}, seed {job.seed}: {error}") from None
    except Exception as error:  # probably specific to this run: the others may succeed
        log.exception("%s, seed %d failed", job.row, job.seed)
        status, message = "failed", f"{type(error).__name__}: {error}"
    if trained is None:
        log.error("%s, seed %d %s: %s", job.row, job.seed, status, message)
    elif trained.is_preempted:
        return None
    about = environment_record()
    device = resolve_device(job.cfg.device)
    device_name = about["accelerator"] if device.type == "cuda" else f"{device.type} {about['cpu_capability']}"
    dtype = resolve_precision(device, job.cfg.train.precision)
    return RunResult(
        row=job.row,
        seed=job.seed,
        status=status,
        metrics=_nan_to_none(trained.metrics) if trained else {},
        message=message[:MAX_MESSAGE] if message else None,
        steps=trained.step if trained else steps,
        seconds=trained.seconds if trained else time.perf_counter() - start,
        config_hash=config_hash(job.cfg),
        commit=about["git_commit"],
        computed_on=f"{device_name}, {str(dtype).removeprefix('torch.')}",
        versions={"python": about["python"], **about["packages"]},
    )


def _nan_to_none(metrics: dict[str, float]) -> dict[str, float | None]:
    """Replace NaN metrics with None, because JSON has no NaN."""
    return {name: None if value != value else value for name, value in metrics.items()}
