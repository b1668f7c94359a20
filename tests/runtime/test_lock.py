"""Locks between real processes, one of which may be killed."""

import os
import subprocess
import sys
import textwrap

import pytest

from retinanet.runtime import lock
from retinanet.runtime.lock import holder_of, try_lock
from tests.helpers.processes import ENVIRONMENT


def python(code: str, *arguments: object) -> subprocess.Popen:
    """Start a Python program with `try_lock` and `Path` imported."""
    lines = (
        f"import os, signal, sys, time\nfrom pathlib import Path\nfrom retinanet.runtime.lock import try_lock\n{code}"
    )
    command = [sys.executable, "-c", textwrap.dedent(lines), *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True)


def is_free_elsewhere(path) -> bool:
    """Whether another process gets the lock."""
    process = python("with try_lock(Path(sys.argv[1])) as ours: print(ours)", path)
    return {"True": True, "False": False}[process.communicate(timeout=60)[0].strip()]


def test_lock_is_exclusive_between_processes_and_names_its_holder(tmp_path):
    path = tmp_path / "run.lock"
    with try_lock(path) as ours:
        assert ours
        assert not is_free_elsewhere(path)
        assert holder_of(path).startswith(f"process {os.getpid()} on ")  # the other process has not overwritten it
    assert is_free_elsewhere(path)


def test_lock_is_exclusive_within_a_process(tmp_path):
    with try_lock(tmp_path / "run.lock") as first, try_lock(tmp_path / "run.lock") as second:
        assert (first, second) == (True, False)
    with try_lock(tmp_path / "run.lock") as again:
        assert again


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_process_releases_its_lock_even_if_a_forked_worker_survives(tmp_path):
    path = tmp_path / "run.lock"
    process = python(
        """
with try_lock(Path(sys.argv[1])) as ours:
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    print(worker, flush=True)
    time.sleep(60)
""",
        path,
    )
    worker = int(process.stdout.readline())
    try:
        assert not is_free_elsewhere(path)
        process.kill()
        process.wait(timeout=60)
        os.kill(worker, 0)  # still alive
        assert is_free_elsewhere(path)
    finally:
        os.kill(worker, 9)
        process.stdout.close()


def test_lock_of_a_removed_file_is_ignored(tmp_path, monkeypatch):
    """Between our opening and locking of the file, its holder removes the file and exits."""
    path, acquire = tmp_path / "run.lock", lock._acquire

    def removed_before(file):
        monkeypatch.setattr(lock, "_acquire", acquire)
        path.unlink()
        acquire(file)

    monkeypatch.setattr(lock, "_acquire", removed_before)
    with try_lock(path) as ours:
        assert ours and path.exists()
        assert not is_free_elsewhere(path)


def test_file_system_without_locks_causes_a_warning(tmp_path, monkeypatch, caplog):
    def unsupported(file):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock, "_acquire", unsupported)
    monkeypatch.setattr(lock, "_release", unsupported)
    with try_lock(tmp_path / "run.lock") as ours:
        assert ours
    assert "run.lock: cannot be locked ([Errno 38] Function not implemented)" in caplog.text


def test_holder_of_a_missing_or_empty_file_is_another_process(tmp_path):
    (tmp_path / "empty.lock").touch()
    assert holder_of(tmp_path / "empty.lock") == holder_of(tmp_path / "gone.lock") == "another process"
