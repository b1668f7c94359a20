import logging
import sys
from pathlib import Path

import pytest

from retinanet.runtime.console import progress
from retinanet.runtime.logging import log_to_file, start_logging


@pytest.fixture
def full_console(monkeypatch):
    """A console redirected to a full disk."""
    full = [open("/dev/full", "w", buffering=1) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", full[0])
    monkeypatch.setattr(sys, "stderr", full[1])
    yield
    for stream in full:
        stream.detach().raw.close()  # without the flush, which would fail again


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full exists only on Linux")
def test_full_console_interrupts_neither_progress_bar_nor_log_file(full_console, tmp_path):
    start_logging()
    log_to_file(tmp_path / "log.txt")
    log = logging.getLogger("retinanet.test")
    bar = progress(range(3), "counting", 3)
    for number in bar:
        log.warning("message %d", number)
        bar.set_postfix_str("postfix")
        bar.refresh()
    bar.close()
    assert [line.split(" WARNING ")[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        f"message {number}" for number in range(3)
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full exists only on Linux")
def test_full_log_file_prints_no_errors(capsys):
    start_logging()
    log_to_file(Path("/dev/full"))
    logging.getLogger("retinanet.test").warning("message")
    start_logging()  # closes the file
    captured = capsys.readouterr()
    assert captured.out == "message\n" and captured.err == ""
