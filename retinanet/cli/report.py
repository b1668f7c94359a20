"""Compare runs: curves, the config keys that differ, and metrics with their spread over seeds."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retinanet.cli.arguments import CommandParser, output_path
from retinanet.cli.interrupts import begin_work
from retinanet.cli.process import exit_code

if TYPE_CHECKING:
    from retinanet.report.runs import RunComparison, RunRecord


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet report",
        description="Compare one or more runs, and print Markdown tables: metrics of the last evaluation, as mean and "
        "standard deviation over runs that differ only in train.seed, and the config keys that differ.",
        epilog="example: retinanet report runs/a runs/b_seed0 runs/b_seed1 --output runs.html",
    )
    result.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder; the first one is the baseline")
    result.add_argument(
        "--output", type=output_path, metavar="FILE", help="HTML page to write, with the curves of all runs"
    )
    result.add_argument("--json", action="store_true", help="print the results as JSON, and nothing else")
    return result


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parser().parse(sys.argv[1:] if argv is None else argv)))


def run(arguments: argparse.Namespace) -> None:
    from retinanet.report.runs import compare_runs
    from retinanet.report.runs_table import as_json, as_markdown

    comparison = compare_runs([read_run(path) for path in different_runs(arguments.runs)])
    if arguments.output:
        write_page_of(comparison, arguments.output)
    begin_work()
    print(json.dumps(as_json(comparison), indent=2) if arguments.json else as_markdown(comparison))
    if arguments.output:
        print(f"page: {arguments.output}", file=sys.stderr)


def write_page_of(comparison: "RunComparison", file: Path) -> None:
    """Write the page of a comparison. Only this needs torch, whose import takes seconds."""
    from retinanet.report.runs_page import COMMAND, render_runs
    from retinanet.visualization.html import check_page, write_page

    check_page(file, command=COMMAND, option="--output")
    write_page(render_runs(comparison), file)


def different_runs(paths: Sequence[Path]) -> list[Path]:
    """The paths without those that name the folder of an earlier one: a run must not count as two seeds.

    Raises:
        InputError: a path does not name a run.
    """
    from retinanet.engine.run_files import find_run

    first_path: dict[Path, Path] = {}
    for path in paths:
        first_path.setdefault(find_run(path).resolve(), path)
    return list(first_path.values())


def read_run(path: Path) -> "RunRecord":
    """Read the config and the metrics of the run that a path names.

    Raises:
        InputError: the path does not name a run, or its files cannot be read.
    """
    from retinanet.config.flat import flatten
    from retinanet.config.yaml_loader import read_yaml
    from retinanet.engine.metrics_log import read_metrics
    from retinanet.engine.run_files import CONFIG_FILE, find_run
    from retinanet.report.runs import RunRecord

    folder = find_run(path)
    # Not validated: the run may be of another version, with other keys.
    config = flatten(read_yaml(folder / CONFIG_FILE))
    return RunRecord(name=str(path), config=config, lines=read_metrics(folder))
