"""Explain how to guard a script whose worker processes import it again.

Python starts worker processes by "spawn" on Windows and macOS, and by "forkserver" on Linux from Python 3.14. Both
import the script that started the program. If that script trains without a guard, every worker starts training too.
"""

import ast
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retinanet.errors import InputError


def exit_if_spawned() -> None:
    """Exit without a traceback if a new worker process is only importing the user's script.

    The process that starts the worker reports it; see `workers_explained`.
    """
    if _is_importing_script():
        # Not `sys.exit`: the exit handlers and `finally` blocks of the user's script must not run in a worker.
        os._exit(1)


@contextmanager
def workers_explained() -> Iterator[None]:
    """Explain what to do if worker processes cannot start because the user's script is not guarded.

    Raises:
        InputError: a worker exited while importing the script.
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:
        is_of_worker = not isinstance(error, RuntimeError) or "DataLoader worker" in str(error)
        script = _unguarded_script() if is_of_worker and multiprocessing.get_start_method() != "fork" else None
        if script is None:
            raise
        raise InputError(
            f"{script}: worker processes import this script and must not start training again; put the call below "
            '`if __name__ == "__main__":`, or set data.workers=0'
        ) from None


def _is_importing_script() -> bool:
    """Whether this is a new process that has not finished importing the script. multiprocessing sets this attribute."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def _unguarded_script() -> str | None:
    """Path of the script that called this function at top level without an `if __name__ ...:` guard, otherwise None."""
    frame = sys._getframe()
    while frame.f_code.co_name != "<module>" or frame.f_globals.get("__name__") != "__main__":
        if frame.f_back is None:
            return None
        frame = frame.f_back
    script, line = frame.f_globals.get("__file__"), frame.f_lineno
    try:
        tree = ast.parse(Path(script).read_bytes())
    except (TypeError, OSError, SyntaxError):  # there is no file, as with `python -c`, or it has changed
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and node.lineno <= line <= node.end_lineno and "__name__" in ast.unparse(node.test):
            return None
    return script
