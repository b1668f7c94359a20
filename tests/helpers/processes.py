"""Programs that run in their own processes, alone or as a group."""

import contextlib
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

REPO = Path(__file__).parents[2]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}

# Code of a program that behaves like the command `retinanet`.
RETINANET = "import sys; from retinanet.__main__ import main; sys.exit(main())"

PROCESSES = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
PROCESSES.set_forkserver_preload(["retinanet.cli.train", "retinanet.cli.eval", "retinanet.engine.train"])


class Program:
    """A running program, like `python -c code arguments`, but in a process that starts in milliseconds.

    It is a fork of a server that has already imported torch and this package. Unlike an interpreter, it runs no exit
    handlers when it ends.

    Args:
        environment: variables to add to the environment of the tests.
        folder: its working directory; None: that of the tests.
    """

    def __init__(
        self,
        code: str,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ):
        self._folder = tempfile.TemporaryDirectory()
        self._output, self._errors = Path(self._folder.name, "output"), Path(self._folder.name, "errors")
        for file in (self._output, self._errors):
            file.touch()
        settings = {**os.environ, **ENVIRONMENT, **(environment or {})}
        self._process = PROCESSES.Process(
            target=_run, args=(textwrap.dedent(code), arguments, settings, folder, self._output, self._errors)
        )
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ENVIRONMENT.items():  # the server needs them when it imports torch
                patch.setenv(name, value)
            self._process.start()
        self.pid = self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def poll(self) -> int | None:
        """The exit code of the program; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the program to end, and return its exit code, or minus the number of the signal that killed it."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s"
        return self._process.exitcode

    def output(self) -> str:
        """What the program has printed so far."""
        return self._output.read_text(encoding="utf-8")

    def errors(self) -> str:
        """What the program has written to its standard error so far."""
        return self._errors.read_text(encoding="utf-8")


def _run(
    code: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None,
    output: Path,
    errors: Path,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if folder is not None:
        os.chdir(folder)
    for descriptor, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})


class CommandResult(NamedTuple):
    """How a command ended; `imports_torch`: whether it, or a command before it, imported torch."""

    exit_code: int
    errors: str
    imports_torch: bool


RUN_ALL = """
    import contextlib, io, json, sys
    from retinanet.__main__ import main
    results = []
    for line in json.loads(sys.argv[1]):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
            try:
                code = main(line.split())
            except SystemExit as stop:
                code = stop.code
        results.append([code, errors.getvalue(), "torch" in sys.modules])
    print(json.dumps(results))
"""


def run_commands(lines: Iterable[str], folder: Path) -> dict[str, CommandResult]:
    """Run commands of `retinanet`, such as "train --help", one after the other in one new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN_ALL), json.dumps(list(lines))],
        env={**os.environ, **ENVIRONMENT},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {line: CommandResult(*result) for line, result in zip(lines, json.loads(done.stdout), strict=True)}


def free_port() -> int:
    """A port that systems do not give to outgoing connections, so that it is still free when a program opens it."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def group_environment(world_size: int) -> list[dict[str, str]]:
    """The variables that torchrun sets for each process."""
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


def run_together(world_size: int, code: str, arguments: Sequence[str] = (), *, timeout: float = 300) -> list[str]:
    """Run a program in several processes that form a group, and return the standard output of each.

    Fails if one of them fails, with the standard error of all.
    """
    started = [Program(code, arguments, environment=environment) for environment in group_environment(world_size)]
    try:
        codes = [program.wait(timeout) for program in started]
    finally:
        for program in started:
            program.kill()
    failed = {rank: code for rank, code in enumerate(codes) if code}
    assert not failed, f"{failed}\n" + "\n".join(program.errors()[-2000:] for program in started)
    return [program.output() for program in started]
