"""Scripts without a `__main__` guard, run as real processes whose workers import them again."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.helpers.processes import ENVIRONMENT, REPO

ADVICE = 'put the call below `if __name__ == "__main__":`, or set data.workers=0'

# As in torch's DataLoader, the parent detects a worker that exits early.
START_WORKER = """
    import multiprocessing, sys
    from retinanet.errors import InputError
    from retinanet.runtime.spawn import exit_if_spawned, workers_explained

    def call():
        exit_if_spawned()
        with workers_explained():
            worker = multiprocessing.Process(target=print, args=("worker",))
            worker.start()
            worker.join()
            if worker.exitcode:
                raise RuntimeError(f"DataLoader worker (pid(s) {worker.pid}) exited unexpectedly")
            REST = None

    try:
        multiprocessing.set_start_method(sys.argv[1])
    except RuntimeError:
        pass
"""


def run_script(folder, code: str, *arguments: str) -> subprocess.CompletedProcess:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code))
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(
        command, env={**os.environ, **ENVIRONMENT}, cwd=REPO, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_unguarded_script_gets_one_message_from_the_main_process(tmp_path, method):
    end = """
    try:
        call()
    except InputError as error:
        sys.exit(f"error: {error}")
    """
    done = run_script(tmp_path, START_WORKER + end, method)
    expected = f"error: {tmp_path}/script.py: worker processes import this script and must not start training again; "
    assert (done.returncode, done.stderr) == (1, f"{expected}{ADVICE}\n")
    assert done.stdout == ""


GUARDED = """
    if __name__ == "__main__":
        call()
"""
GUARDED_BY_ELSE = """
    if True:
        if "__main__" != __name__:
            pass
        else:
            call()
"""


@pytest.mark.parametrize("guard", [GUARDED, GUARDED_BY_ELSE], ids=["if", "else"])
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_guarded_script_runs(tmp_path, method, guard):
    done = run_script(tmp_path, START_WORKER + guard, method)
    assert (done.returncode, done.stdout, done.stderr) == (0, "worker\n", "")


KILLED = "raise RuntimeError('DataLoader worker (pid 7) was killed')"


@pytest.mark.parametrize(
    ("method", "failure", "message"),
    [
        ("fork", KILLED, "RuntimeError: DataLoader worker (pid 7) was killed"),
        ("spawn", KILLED, "RuntimeError: DataLoader worker (pid 7) was killed"),
        ("spawn", "raise EOFError('of the network')", "EOFError: of the network"),
    ],
)
def test_other_errors_are_not_attributed_to_a_missing_guard(tmp_path, method, failure, message):
    done = run_script(tmp_path, START_WORKER.replace("REST = None", failure) + GUARDED, method)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == message


TRAIN = """
    import multiprocessing, sys
    from retinanet import InputError, load_config, train
    try:
        multiprocessing.set_start_method("spawn")
    except RuntimeError:
        pass
    try:
        train(load_config("quickstart", sys.argv[2:]), sys.argv[1])
    except InputError as error:
        sys.exit(f"error: {error}")
"""


@pytest.mark.slow
def test_unguarded_script_that_trains_with_workers_gets_one_message(tmp_path, tiny_overrides):
    done = run_script(tmp_path, TRAIN, str(tmp_path / "run"), *tiny_overrides, "data.workers=1")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/script.py: worker") and done.stderr.endswith(f"{ADVICE}\n")
    assert done.stderr.count("\n") == 1
    assert "step" not in (tmp_path / "run/metrics.jsonl").read_text()
    again = run_script(
        tmp_path, TRAIN, str(tmp_path / "run2"), *tiny_overrides, "data.workers=0", "train.steps=1", "data.val=[]"
    )
    assert (again.returncode, again.stderr) == (0, "")
