"""Logging to the console and to the log file."""

import logging
import sys
from pathlib import Path

import pytest

from retinanet.runtime.logging import log_to_file, start_logging

log = logging.getLogger("retinanet.somewhere")


def test_log_file_has_the_lines_of_the_console(tmp_path, capsys):
    start_logging()
    log.warning("seven boxes")
    log_to_file(tmp_path / "log.txt")
    log.info("eight")
    start_logging()  # closes the file
    log.warning("later")
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines == ["WARNING seven boxes", "INFO eight"]
    assert capsys.readouterr().out.split("\n")[:3] == ["seven boxes", "eight", "later"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full exists only on Linux")
def test_full_log_file_prints_no_errors(capsys):
    start_logging()
    log_to_file(Path("/dev/full"))
    log.warning("message")
    start_logging()  # closes the file
    captured = capsys.readouterr()
    assert captured.out == "message\n" and captured.err == ""


def test_silent_process_prints_only_errors(capsys):
    start_logging(silent=True)
    log.info("seven")
    log.error("eight")
    start_logging()
    log.info("nine")
    assert capsys.readouterr().out == "eight\nnine\n"


@pytest.fixture
def logger():
    """The logger of the package, restored afterwards."""
    logger = logging.getLogger("retinanet")
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_handlers_and_level_of_the_caller_are_preserved(logger, tmp_path, capsys):
    records = []

    class Collecting(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    own_file = logging.FileHandler(tmp_path / "own.txt")
    own_memory = logging.handlers.MemoryHandler(10, target=Collecting())
    for handler in (Collecting(), own_file, own_memory):
        logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    for _ in range(2):
        start_logging()
        log_to_file(tmp_path / "log.txt")
    log.info("below the level")
    log.warning("seven")
    own_memory.flush()
    assert logger.level == logging.WARNING
    assert records == ["seven", "seven"]
    assert (tmp_path / "own.txt").read_text() == "seven\n"
    assert capsys.readouterr().out == "seven\n"
    start_logging()
    own_file.close()
