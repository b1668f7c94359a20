"""Run programs in several processes that form a group."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).parents[2]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def group_environment(world_size: int) -> list[dict[str, str]]:
    """The environment of each process, as torchrun sets it."""
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        {**os.environ, **ENVIRONMENT, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(world_size)
    ]


def run_together(world_size: int, code: str, arguments: Sequence[str] = (), *, timeout: float = 300) -> list[str]:
    """Run a program in several processes that form a group, and return the standard output of each.

    Fails if one of them fails, with the standard error of all.
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO)
        for environment in group_environment(world_size)
    ]
    try:
        printed = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    failed = {rank: process.returncode for rank, process in enumerate(started) if process.returncode}
    assert not failed, f"{failed}\n" + "\n".join(errors[-2000:] for _, errors in printed)
    return [out for out, _ in printed]
