"""Messages and progress on terminals, in files and in pipes."""

import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from retinanet.runtime import console as module
from retinanet.runtime.console import counted_progress, escape_unprintable, format_bytes, format_duration, progress
from retinanet.runtime.logging import log_to_file, start_logging
from tests.helpers.processes import ENVIRONMENT, REPO


@pytest.fixture
def at(monkeypatch):
    """Sets the current time."""

    def set_time(seconds: float) -> None:
        monkeypatch.setattr(module.time, "monotonic", lambda: seconds)

    set_time(1000.0)
    return set_time


# ---- progress in a file or a pipe


def test_file_gets_a_line_with_the_time_left_every_30_seconds(at, capsys):
    """At one item every 10 s, 3 of 10 items take 30 s and leave 70 s; 6 take 60 s and leave 40 s."""
    for number, _ in enumerate(progress(range(10), "evaluating", 10), 1):
        at(1000 + 10 * number)
    assert capsys.readouterr() == (
        "",
        "evaluating: 3 of 10 (30%), 1 min 10 s left\n"
        "evaluating: 6 of 10 (60%), 40 s left\n"
        "evaluating: 9 of 10 (90%), 10 s left\n",
    )


def test_short_work_writes_nothing_to_a_file(at, capsys):
    for number, _ in enumerate(progress(range(29), "evaluating", None), 1):
        at(1000 + number)
    assert capsys.readouterr() == ("", "")


def test_time_left_counts_only_the_items_of_this_process(at, capsys):
    """A run resumed at 80 of 100 does 10 items in 30 s, so the other 10 take another 30 s."""
    bar = progress(None, "training", 100, initial=80)
    for number in range(1, 11):
        at(1000 + 3 * number)
        bar.update()
    bar.close()
    assert capsys.readouterr().err == "training: 90 of 100 (90%), 30 s left\n"


def test_total_is_the_length_of_the_items_or_omitted(at, capsys):
    for items in ([1, 2, 3, 4], iter([1, 2, 3, 4])):
        at(1000)
        for number, _ in enumerate(progress(items, "drawing", None), 1):
            at(1000 + 20 * number)
    assert capsys.readouterr().err == (
        "drawing: 2 of 4 (50%), 40 s left\ndrawing: 4 of 4 (100%), 0 s left\ndrawing: 2 done\ndrawing: 4 done\n"
    )


def test_file_gets_no_line_while_the_caller_logs_its_progress(at, capsys):
    bar = progress(None, "training", 100)
    for number in range(1, 9):
        at(1000 + 20 * number)
        bar.update()
        bar.logged("loss 1.5")
    assert capsys.readouterr() == ("", "")
    bar.set_postfix_str("ours")
    at(1190)
    bar.update()
    assert capsys.readouterr().err == "training: 9 of 100 (9%), 32 min 1 s left, ours\n"  # 190 s for 9 steps, 91 left


def test_counted_work_is_reported_by_its_parts(at, capsys):
    with counted_progress("resampling") as finished:
        for done in range(1, 5):
            at(20 * done)
            finished(done, 4)
    assert capsys.readouterr().err == "resampling: 3 of 4 (75%), 20 s left\n"


def test_silent_progress_writes_nothing(at, capsys):
    for number, _ in enumerate(progress(range(5), "evaluating", 5, silent=True), 1):
        at(1000 + 100 * number)
    assert capsys.readouterr() == ("", "")


NESTED = """
import logging, sys
from retinanet.runtime import console
from retinanet.runtime.console import progress
from retinanet.runtime.logging import start_logging
console.PLAIN_INTERVAL = 0.0
start_logging()
log = logging.getLogger("retinanet.test")
bar = progress(None, "training", 3)
for step in range(3):
    bar.update()
    bar.logged("loss 1.5")
    log.info("step %d", step)
    for item in progress(range(2), "evaluating", 2):
        pass
bar.close()
"""


def run_on(output: str, tmp_path, **environment: str) -> tuple[bytes, bytes]:
    """Run `NESTED` with stderr in a file or on a terminal, and return the bytes it wrote to stdout and stderr."""
    command = [sys.executable, "-c", NESTED]
    variables = {**os.environ, **ENVIRONMENT, "TERM": "xterm", **environment}
    if output == "file":
        with open(tmp_path / "log", "wb") as file:
            done = subprocess.run(command, env=variables, cwd=REPO, stdout=subprocess.PIPE, stderr=file, check=True)
        return done.stdout, (tmp_path / "log").read_bytes()
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))  # without a size there is no bar
    with subprocess.Popen(command, env=variables, cwd=REPO, stdout=subprocess.PIPE, stderr=terminal) as child:
        os.close(terminal)
        written = b""
        while chunk := _read_terminal(controller):
            written += chunk
        printed = child.stdout.read()
    os.close(controller)
    assert child.returncode == 0
    return printed, written


def _read_terminal(controller: int) -> bytes:
    try:
        return os.read(controller, 65536)
    except OSError:  # on Linux: every process has closed the terminal
        return b""


@pytest.mark.parametrize("output", ["file", "dumb terminal"])
def test_file_has_complete_lines_without_carriage_returns_or_escapes(tmp_path, output):
    kind, *dumb = ("file",) if output == "file" else ("terminal", "dumb")
    printed, written = run_on(kind, tmp_path, **({"TERM": "dumb"} if dumb else {}))
    lines = written.decode().replace("\r\n", "\n")  # a terminal turns each newline into both
    assert printed == b"step 0\nstep 1\nstep 2\n"
    assert not re.search("[\r\x1b]", lines)
    assert [line.split(",")[0] for line in lines.splitlines()] == [
        line
        for step in (1, 2, 3)
        for line in (f"training: {step} of 3 ({step / 3:.0%})", "evaluating: 1 of 2 (50%)", "evaluating: 2 of 2 (100%)")
    ]


def test_terminal_shows_a_bar_while_a_pipe_gets_plain_lines(tmp_path):
    printed, written = run_on("terminal", tmp_path)
    assert printed == b"step 0\nstep 1\nstep 2\n"
    assert b"\r" in written and b"training" in written and b"loss 1.5" in written


def test_items_per_second_are_shown_if_the_items_have_a_name(monkeypatch, capsys):
    moments = iter([100.0, 102.0, 104.0])  # the start, and an item every two seconds
    monkeypatch.setattr(module.time, "monotonic", lambda: next(moments))
    monkeypatch.setattr(module, "PLAIN_INTERVAL", 0.0)
    bar = module.PlainProgress(None, "predicting", 12, initial=8, unit="images")
    bar.update()
    bar.update()
    monkeypatch.undo()
    assert capsys.readouterr().err == (
        "predicting: 9 of 12 (75%), 0.5 images/s, 6 s left\npredicting: 10 of 12 (83%), 0.5 images/s, 4 s left\n"
    )


def test_more_items_than_expected_have_no_share_and_no_time_left(monkeypatch, capsys):
    monkeypatch.setattr(module, "PLAIN_INTERVAL", 0.0)
    bar = module.PlainProgress(None, "predicting", 3, initial=3, unit="frames")
    bar.update()
    assert capsys.readouterr().err == "predicting: 4 done\n"


@pytest.mark.parametrize(("count", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images")])
def test_counted_nouns(count, text):
    assert module.counted(count, "image") == text
    assert module.counted(count, "class", "classes").endswith("class" if count == 1 else "classes")


# ---- durations


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (0.0123, "0.012 s"), (1.26, "1.3 s"), (9.96, "10 s"), (59.4, "59 s")),
        *((60, "1 min"), (200, "3 min 20 s"), (3599, "59 min 59 s"), (3600, "1 h"), (7530, "2 h 6 min")),
        *((86399, "24 h"), (86400, "1 day"), (4 * 86400 + 7 * 3600 - 9, "4 days 7 h"), (90 * 86400, "90 days")),
    ],
)
def test_durations_have_at_most_two_units(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 kB"), (1500, "1.5 kB"), (94_400_000, "94 MB"), (1_234_000_000, "1.2 GB"), (5_000e12, "5000 TB")],
)
def test_sizes_are_decimal(size, text):
    assert format_bytes(size) == text


# ---- consoles that cannot print everything


def test_characters_that_the_console_lacks_are_escaped(monkeypatch, tmp_path):
    """Characters are also escaped after printable words and in error messages."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(logging.getLogger("retinanet"), "propagate", False)  # pytest could not report a surrogate
    start_logging()
    log_to_file(tmp_path / "log.txt")
    logging.getLogger("retinanet.test").warning("café 方块 \udc80")
    escape_unprintable()
    print("мяч")
    print("方", file=sys.stderr)
    for stream in streams:
        stream.flush()
    assert streams[0].buffer.getvalue().decode("cp1252") == "café \\u65b9\\u5757 \\udc80\n\\u043c\\u044f\\u0447\n"
    assert streams[1].buffer.getvalue() == b"\\u65b9\n"
    start_logging()  # closes the file
    assert (tmp_path / "log.txt").read_text("utf-8").endswith("WARNING café 方块 \\udc80\n")


def test_custom_error_handler_of_the_console_is_kept(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="ignore")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)  # as in a program without a console
    escape_unprintable()
    assert stream.errors == "ignore"


@pytest.fixture
def full_console(monkeypatch):
    """A console redirected to a full disk."""
    full = [open("/dev/full", "w", buffering=1) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", full[0])
    monkeypatch.setattr(sys, "stderr", full[1])
    yield full[1]
    for stream in full:
        stream.detach().raw.close()  # without the flush, which would fail again


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full exists only on Linux")
@pytest.mark.parametrize("is_terminal", [True, False], ids=["bar", "lines"])
def test_full_console_interrupts_neither_progress_nor_log_file(full_console, tmp_path, monkeypatch, is_terminal):
    monkeypatch.setattr(module, "is_terminal", lambda stream: is_terminal)
    monkeypatch.setattr(module, "PLAIN_INTERVAL", 0.0)
    start_logging()
    log_to_file(tmp_path / "log.txt")
    log = logging.getLogger("retinanet.test")
    bar = progress(range(3), "counting", 3)
    for number in bar:
        log.warning("message %d", number)
        bar.set_postfix_str("postfix")
        bar.logged("postfix")
    bar.close()
    assert [line.split(" WARNING ")[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        f"message {number}" for number in range(3)
    ]
