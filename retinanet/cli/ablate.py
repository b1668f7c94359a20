"""Reproduce the tables of the paper: train each row with several seeds, and compare the results."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retinanet.ablation.table import describe_schedule, load_table, make_jobs, make_valid_jobs
from retinanet.cli import checkpoint
from retinanet.cli.arguments import CommandParser, output_path
from retinanet.cli.interrupts import begin_work
from retinanet.cli.process import exit_code
from retinanet.errors import InputError, make_folder
from retinanet.formats.sources import check_sources

if TYPE_CHECKING:
    from retinanet.visualization.plots import Chart

FIGURES, DEMO = "figures", "demo"


def table_parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet ablate",
        description=f"{__doc__} See also `retinanet ablate {FIGURES} --help` and `retinanet ablate {DEMO} --help`.",
        epilog="Run the command again to continue an interrupted table. Several processes with the same --output "
        "divide the runs among themselves. example: retinanet ablate 1b --data quickstart --seeds 3",
    )
    result.add_argument("table", help=f"YAML file, or name of a bundled table, such as 1b; or {FIGURES}, or {DEMO}")
    result.add_overrides("set a config key for every row")
    result.add_argument(
        "--data",
        default="quickstart",
        metavar="SETUP",
        help="a setup of the table: quickstart, bccd, coco (default: %(default)s)",
    )
    result.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="runs per row, with seeds from 0 (default: %(default)s)"
    )
    result.add_argument("--rows", nargs="+", metavar="NAME", help="train only the rows with these names")
    result.add_argument(
        "--output",
        type=output_path,
        metavar="DIR",
        help="folder for the runs; tables can share it (default: runs/ablate/SETUP)",
    )
    result.add_argument(
        "--speed", action="store_true", help="also time the network of each row, and plot AP against time"
    )
    result.add_argument("--report", action="store_true", help="write table and plot of existing runs without training")
    return result


def figures_parser() -> CommandParser:
    result = CommandParser(
        prog=f"retinanet ablate {FIGURES}",
        description="Plot figures 1 and 4 of the paper for a trained checkpoint, its score histograms, and the "
        "contributions to its validation loss.",
        epilog=f"example: retinanet ablate {FIGURES} runs/quickstart",
    )
    result.add_argument("checkpoint", type=Path, help=checkpoint.HELP)
    result.add_overrides("set a key of the config in the checkpoint")
    result.add_argument("--output", type=output_path, metavar="DIR", help="folder (default: RUN/figures)")
    return result


def demo_parser() -> CommandParser:
    result = CommandParser(
        prog=f"retinanet ablate {DEMO}",
        description="Compare cross entropy and the focal loss on a synthetic problem with one rare class, in minutes "
        "on a CPU.",
    )
    result.add_argument("--seeds", type=int, default=5, metavar="N", help="networks per loss (default: %(default)s)")
    result.add_argument(
        "--output", type=output_path, default=Path("runs/ablate/demo"), metavar="DIR", help="(default: %(default)s)"
    )
    return result


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int | None:
    if argv[:1] == [FIGURES]:
        return run_figures(figures_parser().parse(argv[1:]))
    if argv[:1] == [DEMO]:
        return run_demo(demo_parser().parse(argv[1:]))
    return run_table(table_parser().parse(argv), argv)


def run_table(arguments: argparse.Namespace, argv: list[str]) -> int:
    check_seeds(arguments.seeds)
    table, setup = load_table(arguments.table), arguments.data
    folder = arguments.output or Path("runs/ablate") / setup
    jobs = make_jobs(table, setup, num_seeds=arguments.seeds, rows=arguments.rows, overrides=arguments.overrides)
    if not arguments.report:
        for part in ("train", "val"):
            check_sources(getattr(jobs[0].cfg.data, part), key=f"data.{part}")

    from retinanet.ablation.report import chart, markdown
    from retinanet.ablation.results import RESULTS_FILE, RESULTS_VERSION, ResultsFile
    from retinanet.ablation.run import known_results, newest_version, run_jobs
    from retinanet.ablation.speed import measure_rows, speed_charts, speed_markdown
    from retinanet.runtime.logging import start_logging
    from retinanet.runtime.stop import EXIT_STOPPED

    begin_work()
    start_logging()
    is_preempted, elsewhere = False, []
    if not arguments.report:
        outcome = run_jobs(jobs, folder)
        elsewhere, is_preempted = outcome.elsewhere, outcome.is_preempted
    # The table covers all recorded runs, including rows and seeds that were not requested this time.
    known_seeds = [result.seed + 1 for result in ResultsFile(folder).read().values()]
    num_seeds = max([arguments.seeds, *known_seeds])
    all_jobs = make_valid_jobs(table, setup, num_seeds=num_seeds, overrides=arguments.overrides)
    version = newest_version(all_jobs, folder) if arguments.report else RESULTS_VERSION
    results = known_results(all_jobs, folder, version=version)
    if arguments.report and not results:
        raise InputError(
            f"{folder / RESULTS_FILE}: no runs of this table on {setup} with these overrides; "
            "pass the overrides used for training, or remove --report to train"
        )
    name = Path(arguments.table).name.removesuffix(".yaml")
    command = shlex.join(["retinanet", "ablate", *argv])
    schedule = describe_schedule(table, setup, jobs[0].cfg)
    write_page(
        folder / name,
        markdown(table, setup, results, schedule=schedule, command=command),
        [chart(table, setup, results)],
    )
    if arguments.speed and not is_preempted:
        speeds = measure_rows(all_jobs, results, folder)
        write_page(
            folder / f"{name}_speed",
            speed_markdown(table, setup, results, speeds, schedule=schedule, command=command),
            speed_charts(table, setup, results, speeds),
        )
    if version != RESULTS_VERSION:
        print("These runs are from an earlier release; training again (without --report) would give different results.")
    if elsewhere:
        print(f"{len(elsewhere)} run(s) are in progress in other processes; run with --report when they have finished")
    if is_preempted:
        return EXIT_STOPPED
    return 1 if any(result.status == "failed" for result in results.values()) else 0


def write_page(path: Path, text: str, charts: Sequence["Chart"]) -> None:
    """Write the text to PATH.md and the charts to PATH.svg, and print the text."""

    from retinanet.visualization.plots import write_svg

    page, plot = (path.with_name(path.name + suffix) for suffix in (".md", ".svg"))
    page.write_text(text, encoding="utf-8")
    write_svg(charts, plot)
    print(f"\n{text}\nwritten: {page}, {plot}")


def run_figures(arguments: argparse.Namespace) -> None:
    path = checkpoint.named_checkpoint(arguments.checkpoint)
    checkpoint.check_early(path, arguments.overrides)
    output = arguments.output or figures_folder(path)

    from retinanet.ablation.figures import write_figures
    from retinanet.runtime.logging import start_logging

    begin_work()
    start_logging()
    written = write_figures(path, output, arguments.overrides)
    print((output / "figures.md").read_text(encoding="utf-8"))
    print("written: " + ", ".join(map(str, written)))


def figures_folder(path: Path) -> Path:
    """The default folder for the figures of a checkpoint.

    Raises:
        InputError: the path is a published folder, which stays unchanged.
    """
    folder = checkpoint.default_output(path)
    if folder is None:
        raise InputError(f"{path}: a published folder stays unchanged; add --output DIR")
    return folder / "figures"


def run_demo(arguments: argparse.Namespace) -> None:
    check_seeds(arguments.seeds)

    from retinanet.ablation import imbalance

    begin_work()
    make_folder(arguments.output)
    scores = imbalance.compare(arguments.seeds)
    text = imbalance.markdown(scores)
    write_page(arguments.output / "demo", text, [imbalance.chart(scores)])


def check_seeds(count: int) -> None:
    if count < 1:
        raise InputError(f"--seeds is {count}, expected 1 or more")
