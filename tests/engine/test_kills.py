"""Runs in real processes that are killed or stopped by signals, and are resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from retinanet.checkpoint.file import read_checkpoint
from tests.helpers.metrics import metrics_without_times
from tests.helpers.processes import ENVIRONMENT, REPO, RETINANET, Program, run_together
from tests.helpers.states import assert_same_checkpoint

pytestmark = pytest.mark.slow

TRAIN = """
    import sys
    from retinanet.config.load import load_config
    from retinanet.engine.train import train
    folder, *overrides = sys.argv[1:]
    train(load_config("quickstart", overrides), folder, resume="auto")
"""


AUGMENTED = [
    "data.transforms=[{type: mosaic}, {type: mixup}, {type: copy_paste}, {type: iou_crop}, {type: rotate90}, "
    "{type: scale_jitter, min: 0.1, max: 2.0}, {type: vertical_flip}, {type: zoom_out}, {type: photometric}, "
    "{type: blur}, {type: erase}]",
    "data.close_last_epochs=2",  # of 11
    "data.sampling={type: class_aware}",
]


def seconds_of_run(folder, overrides):
    began = time.monotonic()
    program = Program(TRAIN, [str(folder), *overrides])
    assert program.wait(timeout=300) == 0, program.errors()
    return time.monotonic() - began


def newest_step(folder):
    return max([int(path.stem[-8:]) for path in (folder / "checkpoints").glob("step_????????.pt")], default=0)


def wait_for_checkpoint(folder, step, timeout):
    """Wait for a checkpoint of a later step, at most until the timeout in seconds."""
    deadline = time.monotonic() + timeout
    while newest_step(folder) <= step and time.monotonic() < deadline:
        time.sleep(0.002)


def test_run_killed_twenty_times_is_bit_identical_to_an_uninterrupted_one(tiny_overrides, tmp_path):
    """The run is killed at random times, while it starts, trains, evaluates or saves, and is then resumed.

    Whatever the speed of the machine, it is killed before it has written three more checkpoints, so it does not end.
    """
    num_steps = 64
    overrides = [
        *tiny_overrides,
        *AUGMENTED,
        f"train.steps={num_steps}",
        "train.log_every=5",
        "train.save_every=2",
        "train.eval_every=8",
        "train.ema_decay=0.9",
    ]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    whole = seconds_of_run(straight, overrides)
    start_up = seconds_of_run(straight, overrides)  # nothing is left to do but one evaluation
    random = Random(0)
    num_lines = set()
    for number in range(20):
        before = newest_step(killed)
        program = Program(TRAIN, [str(killed), *overrides])
        if number % 2:
            wait_for_checkpoint(killed, before, random.uniform(0, start_up))
        else:
            wait_for_checkpoint(killed, before, timeout=300)
            wait_for_checkpoint(killed, before + 2, random.uniform(0, 1.5 * (whole - start_up) / num_steps))
        program.send_signal(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL, program.errors()  # it was still running when it was killed
        metrics = killed / "metrics.jsonl"
        num_lines.add(len(metrics.read_text().splitlines()) if metrics.exists() else 0)
    assert len(num_lines) > 4, num_lines  # spread over the run
    seconds_of_run(killed, overrides)
    assert metrics_without_times(killed) == metrics_without_times(straight)
    last = [read_checkpoint(folder / "checkpoints/last.pt") for folder in (straight, killed)]
    assert_same_checkpoint(*last)
    best = [read_checkpoint(folder / "checkpoints/best.pt") for folder in (straight, killed)]
    assert_same_checkpoint(*best)


def torchrun(folder, overrides, *, restarts=0, resume=False):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc_per_node=2", f"--max-restarts={restarts}"),
        *("tools/train.py", "quickstart", "--output", str(folder), *overrides, *(["--resume"] if resume else [])),
    ]
    environment = {**os.environ, **ENVIRONMENT, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with open(f"{folder}.log", "a") as output:
        return subprocess.Popen(command, env=environment, cwd=REPO, stdout=output, stderr=output)


def wait_for_step(folder, step, process, printed, timeout=180):
    """Wait until the metrics log has a line for a step. `printed` returns the output of the process."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        assert process.poll() is None, printed()[-3000:]
        if (folder / "metrics.jsonl").exists():
            steps = [int(found) for found in re.findall(r'"step": (\d+)', (folder / "metrics.jsonl").read_text())]
            if steps and max(steps) >= step:
                return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} in {timeout} s\n" + printed()[-3000:])


def workers_of(process):
    """Process ids of the training processes started by torchrun."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = open(f"/proc/{entry}/stat").read().rsplit(")", 1)[1].split()
                command = open(f"/proc/{entry}/cmdline").read()
            except OSError:
                continue
            if int(stat[1]) == process.pid and "tools/train.py" in command:
                found.append(int(entry))
    return sorted(found)


def test_torchrun_job_survives_a_killed_worker_and_sigterm(tiny_overrides, tmp_path):
    """Kill a worker, which is restarted; send SIGTERM to one worker, then to all workers. The result must not change.

    The run saves between log lines.
    """
    overrides = [
        *tiny_overrides,
        *("model.backbone.norm=group", "train.stall_timeout=60"),
        *("train.steps=48", "train.log_every=4", "train.save_every=5", "train.eval_every=48"),
    ]
    straight, disturbed = tmp_path / "straight", tmp_path / "disturbed"
    run_together(2, TRAIN, [str(straight), *overrides])

    def printed():
        return Path(f"{disturbed}.log").read_text()

    process = torchrun(disturbed, overrides, restarts=1)
    wait_for_step(disturbed, 8, process, printed)
    wait_for_checkpoint(disturbed, 0, timeout=180)  # it is written in the background
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    wait_for_step(disturbed, 16, process, printed)
    assert "resuming from" in printed()
    assert not list(disturbed.glob("failure_rank*.txt"))  # only the killed rank failed
    for stops_all in (False, True):
        if stops_all:
            process.send_signal(signal.SIGTERM)  # torchrun forwards it
        else:
            os.kill(workers_of(process)[1], signal.SIGTERM)
        assert process.wait(timeout=120) != 0
        preempted = json.loads((disturbed / "preempted").read_text())
        checkpoint = read_checkpoint(disturbed / "checkpoints/last.pt")
        assert preempted["signal"] == "SIGTERM" and preempted["step"] == checkpoint.step < 48
        process = torchrun(disturbed, overrides, resume=True)
        if not stops_all:
            wait_for_step(disturbed, checkpoint.step + 4, process, printed)
    assert process.wait(timeout=300) == 0, printed()[-3000:]
    assert not (disturbed / "preempted").exists()
    last = [read_checkpoint(folder / "checkpoints/last.pt") for folder in (disturbed, straight)]
    assert_same_checkpoint(*last)
    assert metrics_without_times(disturbed) == metrics_without_times(straight)


def test_interrupted_process_saves_and_exits_with_143(tiny_overrides, tmp_path):
    folder = tmp_path / "run"
    overrides = [
        *tiny_overrides,
        "train.steps=500",
        "train.log_every=1",
        "train.save_every=400",
        "train.eval_every=400",
    ]
    program = Program(RETINANET, ["train", "quickstart", "--output", str(folder), *overrides])
    wait_for_step(folder, 3, program, program.errors)
    program.send_signal(signal.SIGINT)
    assert program.wait(timeout=60) == 143
    assert json.loads((folder / "preempted").read_text())["signal"] == "SIGINT"
    assert 3 <= read_checkpoint(folder / "checkpoints/last.pt").step < 500
    assert "Traceback" not in program.output() + program.errors()
