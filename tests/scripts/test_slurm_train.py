"""scripts/slurm_train.sh, with stand-ins for the commands of SLURM and for torchrun."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm_train.sh"
TIMEOUT = 120.0  # seconds

# The script cannot tell them from the real ones: srun starts its command and forwards signals to it, torchrun returns 1
# after any signal, and scontrol records its arguments.
COMMANDS = {
    "srun": """#!/usr/bin/env bash
        printf 'srun %s\\n' "$*" >>"$CALLS"
        [[ $1 == --* ]] && shift
        trap 'kill -TERM $!' TERM
        "$@" & task=$!
        wait $task || code=$?
        while kill -0 $task 2>/dev/null; do wait $task || code=$?; done
        exit "${code:-0}"
    """,
    "torchrun": """#!/usr/bin/env bash
        printf '%s\\n' "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE ${SRUN_CPUS_PER_TASK:-}" >"$CALLS.environment"
        mkdir -p "$RUN"
        # A run saves before it writes the marker: the script must wait for that.
        trap 'sleep 0.5; printf "{\\"step\\": 7}" >"$RUN/preempted"; exit 1' TERM
        touch "$RUN/started"
        [[ $BEHAVIOUR == wait ]] || exit "$BEHAVIOUR"
        for _ in {1..2400}; do sleep 0.05; done
    """,
    "scontrol": """#!/usr/bin/env bash
        printf 'scontrol %s\\n' "$*" >>"$CALLS"
        case "$1 $2" in
            "show hostnames") printf 'node7\\nnode8\\n' ;;
            "show job") printf 'JobId=%s\\n   JobState=%s Reason=None\\n' "$3" "$STATE" ;;
        esac
    """,
}


@pytest.fixture
def job(tmp_path):
    """The environment variables of a job on two nodes that was submitted from `tmp_path`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in COMMANDS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "RUN": str(tmp_path / "runs/r50"),
        "BEHAVIOUR": "0",
        "STATE": "RUNNING",
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
    }


def start(tmp_path: Path, job: dict, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *(arguments or ("runs/r50", "r50_fpn_1x", "train.seed=3"))],
        cwd=tmp_path,
        env=job,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run(tmp_path: Path, job: dict, *arguments: str) -> tuple[int, str]:
    process = start(tmp_path, job, *arguments)
    output, _ = process.communicate(timeout=TIMEOUT)
    return process.returncode, output


def stop(tmp_path: Path, job: dict) -> tuple[int, str]:
    """Send SIGTERM to the script only, as SLURM does before the time limit, once the run has started."""
    process = start(tmp_path, {**job, "BEHAVIOUR": "wait"})
    deadline = time.monotonic() + TIMEOUT
    while not (tmp_path / "runs/r50/started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=TIMEOUT)
    return process.returncode, output


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def test_torchrun_uses_the_first_node_as_rendezvous_and_resumes(tmp_path, job):
    code, output = run(tmp_path, {**job, "SLURM_CPUS_PER_TASK": "64"})
    assert code == 0, output
    # the port: 20000 + 123456 % 10000
    assert calls(tmp_path) == [
        "scontrol show hostnames node[7-8]",
        "srun --kill-on-bad-exit=0 torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d "
        "--rdzv-endpoint=node7:23456 --rdzv-id=123456 --max-restarts=3 "
        "--module retinanet train r50_fpn_1x train.seed=3 --output runs/r50 --resume=auto",
    ]
    assert (tmp_path / "calls.environment").read_text() == "1 64\n"


def test_preempted_run_is_requeued(tmp_path, job):
    code, output = stop(tmp_path, job)
    assert code == 0, output
    assert calls(tmp_path)[2:] == ["scontrol show job 123456", "scontrol requeue 123456"]
    assert '{"step": 7}' in output
    assert json.loads((tmp_path / "runs/r50/preempted").read_text()) == {"step": 7}


def test_cancelled_job_is_not_requeued(tmp_path, job):
    code, output = stop(tmp_path, {**job, "STATE": "COMPLETING"})
    assert code != 0
    assert "submit it again to continue" in output
    assert calls(tmp_path)[-1] == "scontrol show job 123456"


@pytest.mark.parametrize("code", [0, 1, 2])
def test_run_that_exits_by_itself_is_not_requeued(tmp_path, job, code):
    # The marker of an earlier start is ignored.
    (tmp_path / "runs/r50").mkdir(parents=True)
    (tmp_path / "runs/r50/preempted").write_text("{}")
    assert run(tmp_path, {**job, "BEHAVIOUR": str(code), "SLURM_RESTART_COUNT": "1"})[0] == code
    assert not any("requeue" in call for call in calls(tmp_path))


def test_venv_in_the_folder_of_submission_is_used(tmp_path, job):
    own = tmp_path / ".venv/bin"
    own.mkdir(parents=True)
    (own / "torchrun").write_text('#!/usr/bin/env bash\nprintf own >>"$CALLS"\n')
    (own / "torchrun").chmod(0o755)
    assert run(tmp_path, job)[0] == 0
    assert calls(tmp_path)[-1] == "own"


def test_missing_arguments_and_missing_job_are_reported(tmp_path, job):
    code, output = run(tmp_path, job, "runs/r50")
    assert code == 2
    assert "expected RUN_DIR CONFIG [KEY=VALUE ...], found: runs/r50" in output
    code, output = run(tmp_path, {"PATH": job["PATH"]})
    assert code == 2
    assert "start it with sbatch" in output


def test_sbatch_options_request_a_signal_before_the_time_limit(tmp_path):
    head = SCRIPT.read_text().split("set -euo pipefail")[0].splitlines()
    options = [line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH")]
    assert {"--signal=B:TERM@120", "--requeue", "--open-mode=append"} <= set(options)
