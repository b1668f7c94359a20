"""The command `retinanet COMMAND ...`, which runs `retinanet.cli.COMMAND`, just like `python tools/COMMAND.py`."""

import sys

from retinanet.cli.interrupts import interrupts_exit


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    with interrupts_exit():
        # Not imported above, where Ctrl-C would print a traceback.
        from retinanet.cli.commands import run_command

        return run_command(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
