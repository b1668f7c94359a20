"""The paper's tables, trained row by row over several seeds; its figures; what the focal loss does to rare classes."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from retinanet.ablation import imbalance
from retinanet.ablation.figures import write_figures
from retinanet.ablation.report import chart, markdown
from retinanet.ablation.results import RESULTS_FILE, ResultsFile
from retinanet.ablation.run import results_of, run_jobs
from retinanet.ablation.speed import measure_rows, speed_charts, speed_markdown
from retinanet.ablation.table import describe_schedule, jobs_of, jobs_that_fit, load_table
from retinanet.engine.run_folder import CHECKPOINTS
from retinanet.errors import InputError, exit_code, make_folder
from retinanet.runtime.logging import start_logging
from retinanet.runtime.stop import EXIT_STOPPED
from retinanet.visualization.plots import Chart, write_svg

FIGURES, DEMO = "figures", "demo"


def table_parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="retinanet ablate",
        description=f"{__doc__} `retinanet ablate {FIGURES} --help` and `retinanet ablate {DEMO} --help` tell more.",
        epilog="Started again, it goes on where it was; started several times at once, each process takes runs that no "
        "other has. example: retinanet ablate 1b --data quickstart --seeds 3",
    )
    result.add_argument(
        "table", help=f"a YAML file, or the name of a table that the package ships, such as 1b; or {FIGURES}, or {DEMO}"
    )
    result.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes one key of every row's config")
    result.add_argument(
        "--data",
        default="quickstart",
        metavar="SETUP",
        help="one that the table has: quickstart, bccd, coco (%(default)s)",
    )
    result.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each row, from seed 0 (%(default)s)")
    result.add_argument("--rows", nargs="+", metavar="NAME", help="some rows alone, by their names in the table")
    result.add_argument("--output", type=Path, metavar="DIR", help="(default: runs/ablate/SETUP) tables share its runs")
    result.add_argument("--speed", action="store_true", help="then time the network of each row, and plot AP over time")
    result.add_argument("--report", action="store_true", help="write table and plot of what is there; train nothing")
    return result


def figures_parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog=f"retinanet ablate {FIGURES}",
        description="Figures 1 and 4 of the paper, scores, and where the loss on validation images comes from, of a "
        "trained checkpoint.",
        epilog=f"example: retinanet ablate {FIGURES} runs/quickstart/checkpoints/last.pt",
    )
    result.add_argument("checkpoint", type=Path, help="a file that training wrote; it carries its config and classes")
    result.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes one key of that config")
    result.add_argument("--output", type=Path, metavar="DIR", help="(default: figures in the run folder)")
    return result


def demo_parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog=f"retinanet ablate {DEMO}",
        description="Cross entropy against the focal loss on a rare class of a drawn problem, in minutes on a CPU.",
    )
    result.add_argument("--seeds", type=int, default=5, metavar="N", help="networks of each loss (%(default)s)")
    result.add_argument("--output", type=Path, default=Path("runs/ablate/demo"), metavar="DIR", help="(%(default)s)")
    return result


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [FIGURES]:
        return exit_code(lambda: make_figures(figures_parser().parse_intermixed_args(argv[1:])))
    if argv[:1] == [DEMO]:
        return exit_code(lambda: make_demo(demo_parser().parse_args(argv[1:])))
    return exit_code(lambda: make_table(table_parser().parse_intermixed_args(argv), argv))


def make_table(arguments: argparse.Namespace, argv: list[str]) -> int:
    check_seeds(arguments.seeds)
    start_logging()
    table, setup = load_table(arguments.table), arguments.data
    folder = arguments.output or Path("runs/ablate") / setup
    jobs = jobs_of(table, setup, num_seeds=arguments.seeds, rows=arguments.rows, overrides=arguments.overrides)
    is_preempted, elsewhere = False, []
    if not arguments.report:
        elsewhere, is_preempted = run_jobs(jobs, folder)
    # The table has all that is there, of other rows and further seeds too.
    known_seeds = [result.seed + 1 for result in ResultsFile(folder).read().values()]
    num_seeds = max([arguments.seeds, *known_seeds])
    all_jobs = jobs_that_fit(table, setup, num_seeds=num_seeds, overrides=arguments.overrides)
    results = results_of(all_jobs, folder)
    if arguments.report and not results:
        raise InputError(
            f"{folder / RESULTS_FILE}: {len(known_seeds)} runs, none of this table on {setup} with these overrides; "
            "give those that they were made with, or leave out --report to make the runs"
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
    if elsewhere:
        print(f"{len(elsewhere)} runs are with other processes; --report makes the table anew when they are done")
    if is_preempted:
        return EXIT_STOPPED
    return 1 if any(result.status == "failed" for result in results.values()) else 0


def write_page(path: Path, text: str, charts: Sequence[Chart]) -> None:
    """Text and charts, in two files that differ in their endings; the text on the console too."""
    page, plot = (path.with_name(path.name + ending) for ending in (".md", ".svg"))
    page.write_text(text, encoding="utf-8")
    write_svg(charts, plot)
    print(f"\n{text}\nwritten: {page}, {plot}")


def make_figures(arguments: argparse.Namespace) -> None:
    start_logging()
    parent = arguments.checkpoint.parent
    output = arguments.output or (parent.parent if parent.name == CHECKPOINTS else parent) / "figures"
    written = write_figures(arguments.checkpoint, output, arguments.overrides)
    print((output / "figures.md").read_text(encoding="utf-8"))
    print("written: " + ", ".join(map(str, written)))


def make_demo(arguments: argparse.Namespace) -> None:
    check_seeds(arguments.seeds)
    make_folder(arguments.output)
    scores = imbalance.compare(arguments.seeds)
    text = imbalance.markdown(scores)
    write_page(arguments.output / "demo", text, [imbalance.chart(scores)])


def check_seeds(count: int) -> None:
    if count < 1:
        raise InputError(f"--seeds is {count}, expected 1 or more")
