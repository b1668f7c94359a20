"""The SLURM script, with commands of ours in the place of SLURM's and of torchrun."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "slurm_train.sh"
PATIENCE = 30.0  # seconds until a test gives up

# Like the real ones as far as the script can tell: srun starts its command and passes a signal on to it, torchrun
# returns 1 after any signal, and scontrol says what it was asked.
COMMANDS = {
    "srun": """#!/usr/bin/env bash
        printf 'srun %s\\n' "$*" >>"$CALLS"
        [[ $1 == --* ]] && shift
        "$@" & task=$!
        trap 'kill -TERM $task' TERM
        wait $task || code=$?
        while kill -0 $task 2>/dev/null; do wait $task || code=$?; done
        exit "${code:-0}"
    """,
    "torchrun": """#!/usr/bin/env bash
        printf '%s\\n' "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE ${SRUN_CPUS_PER_TASK:-}" >"$CALLS.environment"
        mkdir -p "$RUN"
        # The run saves before it leaves the marker: the script has to wait for it.
        trap 'sleep 0.5; printf "{\\"step\\": 7}" >"$RUN/preempted"; exit 1' TERM
        touch "$RUN/started"
        [[ $BEHAVIOUR == wait ]] || exit "$BEHAVIOUR"
        for _ in {1..600}; do sleep 0.05; done
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
    """The environment of a job on two nodes, in `tmp_path`."""
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
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def stop(tmp_path: Path, job: dict) -> tuple[int, str]:
    """As SLURM does some time before the end: SIGTERM to the script alone, once the run is under way."""
    process = start(tmp_path, {**job, "BEHAVIOUR": "wait"})
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "runs/r50/started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def test_torchrun_meets_on_the_first_node_and_goes_on_where_a_run_is(tmp_path, job):
    code, said = run(tmp_path, {**job, "SLURM_CPUS_PER_TASK": "64"})
    assert code == 0, said
    # the port: 20000 + 123456 % 10000
    assert calls(tmp_path) == [
        "scontrol show hostnames node[7-8]",
        "srun --kill-on-bad-exit=0 torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d "
        "--rdzv-endpoint=node7:23456 --rdzv-id=123456 --max-restarts=3 "
        "--module retinanet train r50_fpn_1x train.seed=3 --output runs/r50 --resume",
    ]
    assert (tmp_path / "calls.environment").read_text() == "1 64\n"


def test_a_run_that_was_stopped_goes_back_into_the_queue(tmp_path, job):
    code, said = stop(tmp_path, job)
    assert code == 0, said
    assert calls(tmp_path)[2:] == ["scontrol show job 123456", "scontrol requeue 123456"]
    assert '{"step": 7}' in said
    assert json.loads((tmp_path / "runs/r50/preempted").read_text()) == {"step": 7}


def test_a_cancelled_job_stays_out_of_the_queue(tmp_path, job):
    code, said = stop(tmp_path, {**job, "STATE": "COMPLETING"})
    assert code != 0
    assert "submit it again to go on" in said
    assert calls(tmp_path)[-1] == "scontrol show job 123456"


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_run_that_ended_by_itself_stays_out_of_the_queue(tmp_path, job, code):
    # What an earlier start left does not count.
    (tmp_path / "runs/r50").mkdir(parents=True)
    (tmp_path / "runs/r50/preempted").write_text("{}")
    assert run(tmp_path, {**job, "BEHAVIOUR": str(code), "SLURM_RESTART_COUNT": "1"})[0] == code
    assert not any("requeue" in call for call in calls(tmp_path))


def test_the_environment_of_the_folder_is_used(tmp_path, job):
    own = tmp_path / ".venv/bin"
    own.mkdir(parents=True)
    (own / "torchrun").write_text('#!/usr/bin/env bash\nprintf own >>"$CALLS"\n')
    (own / "torchrun").chmod(0o755)
    assert run(tmp_path, job)[0] == 0
    assert calls(tmp_path)[-1] == "own"


def test_mistakes_are_named(tmp_path, job):
    code, said = run(tmp_path, job, "runs/r50")
    assert code == 2
    assert "expected RUN_FOLDER CONFIG [KEY=VALUE ...], found: runs/r50" in said
    code, said = run(tmp_path, {"PATH": job["PATH"]})
    assert code == 2
    assert "start it with sbatch" in said


def test_the_queue_is_asked_for_a_signal_in_time(tmp_path):
    head = SCRIPT.read_text().split("set -euo pipefail")[0].splitlines()
    options = [line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH")]
    assert {"--signal=B:TERM@120", "--requeue", "--open-mode=append"} <= set(options)
