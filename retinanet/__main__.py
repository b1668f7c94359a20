"""The command `retinanet COMMAND ...`: runs `retinanet.cli.COMMAND`, like `python tools/COMMAND.py`."""

import sys

from retinanet.cli.interrupts import interrupts_exit


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    with interrupts_exit():
        # Imported here, because Ctrl-C during imports at the top of the file would print a traceback.
        from retinanet.cli.commands import run_command

        return run_command(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
