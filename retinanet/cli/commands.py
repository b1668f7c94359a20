"""The commands, and their dispatch by name."""

import argparse
import difflib
import importlib

from retinanet import __version__
from retinanet.cli.arguments import CommandParser
from retinanet.cli.process import exit_code

COMMANDS = {
    "check": "check data, anchors and settings before training",
    "train": "train a detector from a config file",
    "eval": "score a checkpoint on its validation set",
    "predict": "detect objects in images and draw them",
    "publish": "write a folder to share, with weights, config and model card",
    "browse": "look at the images of a dataset, or at detections",
    "report": "compare runs: curves, configs and metrics",
    "export": "export a detector to ONNX, OpenVINO, torch.export or AOTInductor",
    "convert": "convert a dataset to another annotation format",
    "ablate": "reproduce the tables and figures of the paper",
    "benchmark": "compare speed and memory with torchvision",
}


def _parser() -> CommandParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items())
    parser = CommandParser(
        prog="retinanet",
        usage="retinanet COMMAND [ARGUMENTS]",
        description=f"commands:\n{listing}\n\n`retinanet COMMAND --help` lists the arguments of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"retinanet {__version__}")
    parser.add_argument("command", help=argparse.SUPPRESS)
    return parser


def run_command(argv: list[str]) -> int:
    """Run a command and return its exit code. Only the module of that command is imported."""
    return exit_code(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    parser = _parser()
    # Parse only the first argument: all others, including `--help`, belong to the command.
    name = parser.parse_args(argv[:1]).command
    if name not in COMMANDS:
        # `evaluate` is closer to `ablate` in edit distance, but the user means `eval`.
        extended = [command for command in COMMANDS if name.startswith(command)]
        nearest = extended or difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"the commands are {', '.join(COMMANDS)}"
        parser.exit(2, f"retinanet: no command {name!r}; {advice}\n")
    return importlib.import_module(f"retinanet.cli.{name}").main(argv[1:])
