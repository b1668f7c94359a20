"""Real processes: their imports, closed output pipes, and Ctrl-C during imports."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from retinanet.cli import interrupts, process
from retinanet.cli.commands import COMMANDS
from retinanet.errors import InputError
from tests.helpers.processes import ENVIRONMENT, REPO, run_commands

TIMEOUT = 60.0  # seconds


def test_help_and_invalid_arguments_do_not_import_torch(tmp_path):
    """All commands run in one process: if one of them imported torch, it would stay imported for the later ones."""
    (tmp_path / "not_a_run").mkdir()
    lines = {
        "--help": 0,
        **{f"{name} --help": 0 for name in COMMANDS},
        "ablate figures --help": 0,
        "ablate demo --help": 0,
        "eval": 2,
        "train": 2,
        "train --epochs 3": 2,
        "train quikstart": 2,
        "train quickstart train.lr=3": 2,
        "train quickstart --resume": 2,
        "train --resume not_a_run": 2,
        "train quickstart": 2,  # its data does not exist
        "train quickstart --print-config": 0,
        "eval gone.pt": 2,
        "predict gone.pt a.png --output b": 2,
        "ablate 1z": 2,
        "benchmark train_stop": 2,
    }
    for line, result in run_commands(lines, tmp_path).items():
        assert result.exit_code == lines[line], (line, result.errors)
        assert not result.imports_torch, line
        assert "Traceback" not in result.errors, result.errors
    assert [path.name for path in tmp_path.iterdir()] == ["not_a_run"]


# ---- closed pipes

PRINTER = """
    import sys
    from pathlib import Path
    from retinanet.cli.process import exit_code
    def run():
        for number in range(20000):
            print("line", number)
        print("to stderr", file=sys.stderr)
        Path(sys.argv[1]).write_text("finished")
    sys.exit(exit_code(run))
"""


@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_command_continues_when_the_reader_of_its_output_exits(tmp_path, both):
    read_end, write_end = os.pipe()
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PRINTER), str(tmp_path / "result")],
        env={**os.environ, **ENVIRONMENT},
        stdout=write_end,
        stderr=write_end if both else subprocess.PIPE,
        text=True,
    )
    os.close(write_end)
    os.read(read_end, 4)
    os.close(read_end)
    _, errors = started.communicate(timeout=TIMEOUT)
    assert started.returncode == 0
    assert (tmp_path / "result").read_text() == "finished"
    assert both or errors == "to stderr\n"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_into_a_closed_pipe_is_not_an_error(arguments):
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "retinanet", *arguments],
        env={**os.environ, **ENVIRONMENT},
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_output_errors_are_raised():
    class FullDisk(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        process._PipeOutput(FullDisk()).write("text")


# ---- Ctrl-C

# Replaces torch. Its import never finishes and swallows exceptions, as the imports of some modules do.
ENDLESS = """
import time
print("importing", flush=True)
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""


CONSOLE_SCRIPT = "import sys; from retinanet.__main__ import main; sys.exit(main())"


# argparse is among the first modules that a command imports, torch among the last.
@pytest.mark.parametrize("module", ["argparse", "torch"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "retinanet", "benchmark", "loss"],
        [str(REPO / "tools" / "ablate.py"), "demo"],
        ["-c", CONSOLE_SCRIPT, "train", "--replay", "step.pt"],
    ],
    ids=["module", "script", "console script"],
)
def test_ctrl_c_during_imports_prints_one_line(tmp_path, arguments, module, default_interrupts):
    (tmp_path / f"{module}.py").write_text(ENDLESS)
    path = os.pathsep.join([str(tmp_path), str(REPO)])
    started = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert started.stdout.readline() == "importing\n"
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=TIMEOUT)
    assert (started.returncode, errors) == (130, "interrupted\n")


def test_ctrl_c_raises_after_begin_work_and_the_handler_is_restored(default_interrupts):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    seen = []

    def work():
        seen.append(signal.getsignal(signal.SIGINT))
        interrupts.begin_work()
        seen.append(signal.getsignal(signal.SIGINT))
        signal.raise_signal(signal.SIGINT)

    assert process.exit_code(work) == 130
    assert seen == [interrupts._exit_interrupted, signal.default_int_handler]
    assert process.exit_code(lambda: None) == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_the_caller_are_preserved():
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.SIG_IGN, lambda number, frame: None):
            signal.signal(signal.SIGINT, handler)
            code = process.exit_code(lambda h=handler: interrupts.begin_work() or signal.getsignal(signal.SIGINT) is h)
            assert code is True  # active while the command runs
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_command_runs_in_any_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(process.exit_code(lambda: 3)))
    thread.start()
    thread.join()
    assert results == [3]


def test_exit_code_of_each_outcome(capsys):
    def wrong():
        raise InputError("a: is wrong")

    def interrupted():
        raise KeyboardInterrupt

    def bug():
        raise ValueError("a bug")

    assert process.exit_code(lambda: "anything") == 0
    assert process.exit_code(lambda: 143) == 143
    assert capsys.readouterr().err == ""
    assert process.exit_code(wrong) == 2
    assert capsys.readouterr().err == "error: a: is wrong\n"
    assert process.exit_code(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(ValueError, match="a bug"):  # a bug keeps its traceback
        process.exit_code(bug)
