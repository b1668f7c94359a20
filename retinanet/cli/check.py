"""Check images, annotations, anchors and settings before training."""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinanet.cli.arguments import CommandParser, output_path
from retinanet.cli.interrupts import begin_work
from retinanet.cli.own_data import is_dataset, own_or_named_config
from retinanet.cli.process import exit_code
from retinanet.config import Config

if TYPE_CHECKING:
    from retinanet.doctor.check import CheckReport

EXIT_FOUND = 1  # the data has errors
PAGE = "check.html"


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet check",
        description="Read all images and annotations, report problems, and write a page that shows what the network "
        "will see. The dataset is not modified. Exits with 1 if there are errors, which would make training fail or "
        "learn the wrong thing.",
        epilog="examples: retinanet check datasets/cells; retinanet check my.yaml --fit-anchors --page cells.html",
    )
    result.add_argument("data", help="dataset folder or annotation file, config file, or name of a bundled config")
    result.add_overrides("set a config key")
    result.add_argument(
        "--fit-anchors", action="store_true", help="print anchors that fit the objects better, and the improvement"
    )
    result.add_argument("--fast", action="store_true", help="read only image headers, and draw no images")
    result.add_argument(
        "--page", type=output_path, metavar="FILE", help=f"HTML page to write (default: {PAGE} in the current folder)"
    )
    result.add_argument("--json", action="store_true", help="print only the results, as JSON")
    return result


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parser().parse(sys.argv[1:] if argv is None else argv)))


def run(arguments: argparse.Namespace) -> int:
    from retinanet.doctor.check import check
    from retinanet.doctor.page import COMMAND, render_report
    from retinanet.runtime.device import resolve_device
    from retinanet.visualization.html import check_page, write_page

    begin_work()
    cfg = own_or_named_config(arguments.data, arguments.overrides)
    page = arguments.page or default_page(arguments.data, cfg)
    check_page(page, command=COMMAND, option="--page")
    decode = not arguments.fast
    report = check(
        cfg,
        name=arguments.data,
        device=resolve_device(cfg.device),
        decode=decode,
        draw=decode,
        silent=arguments.json,
    )
    report.command = training_command(arguments.data, arguments.overrides, report)
    write_page(render_report(report), page)
    if arguments.json:
        print(json.dumps(as_json(report, page), indent=2))
    else:
        print_report(report, page, with_proposal=arguments.fit_anchors)
    return EXIT_FOUND if report.has_errors else 0


def default_page(data: str, cfg: Config) -> Path:
    """Default path of the page: in the current folder or, if that is inside the dataset, in the temporary folder."""
    sources = (*cfg.data.train, *cfg.data.val)
    places = {data, *(place for source in sources for place in (source.annotations, source.images) if place)}
    folders = [Path(place).resolve() for place in places if Path(place).is_dir()]
    here = Path.cwd()
    return Path(tempfile.gettempdir()) / PAGE if any(here.is_relative_to(folder) for folder in folders) else Path(PAGE)


def training_command(data: str, overrides: list[str], report: "CheckReport") -> str:
    """The command that trains with the recommended settings. `train --data` applies most of them by itself."""
    from retinanet.doctor.channels import TOPIC

    if is_dataset(data):
        lines = [line for item in report.recommendations for line in item.lines if item.topic == TOPIC]
        return shlex.join(["retinanet", "train", "--data", data, *overrides, *lines])
    lines = [line for item in report.recommendations for line in item.lines]
    return shlex.join(["retinanet", "train", data, *overrides, *lines])


def print_report(report: "CheckReport", page: Path, *, with_proposal: bool) -> None:
    from retinanet.doctor.anchors import summary_table
    from retinanet.runtime.console import escape_controls

    for finding in report.findings:
        print(escape_controls(f"{finding.severity}: {finding}"))
    counts = ", ".join(f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in report.counts.items())
    print(f"{counts}\n" if report.findings else "nothing found\n")
    for item in report.recommendations:
        print(escape_controls(f"{item.topic}: {item.sentence}"), *(f"    {line}" for line in item.lines), sep="\n")
    if with_proposal and report.proposal is not None:
        proposal = report.proposal
        if proposal.is_better:
            print("\ncurrent anchors:", escape_controls(summary_table(proposal.before)), sep="\n")
            print("\nproposed anchors:", *(f"    {line}" for line in proposal.config_lines()), sep="\n")
            print(escape_controls(summary_table(proposal.after)))
        else:
            print("\nno better anchors were found")
    if report.recommendations:
        print(f"\n{'fix the errors, then train' if report.has_errors else 'train'}: {report.command}")
    print(f"page: {page}")


def as_json(report: "CheckReport", page: Path) -> dict[str, Any]:
    """The report as JSON values."""
    return {
        "counts": report.counts,
        "findings": [finding._asdict() for finding in report.findings],
        "datasets": {
            name: {
                "images": len(data),
                "objects": dict(zip(data.class_names, map(int, data.object_counts()), strict=True)),
            }
            for name, data in report.datasets.items()
        },
        "channels": None if report.channels is None else report.channels._asdict(),
        "anchors": None
        if report.anchors is None
        else {"ap_ceiling": report.anchors.ceiling.metrics["AP"], **report.anchors.total._asdict()},
        "recommendations": [item._asdict() for item in report.recommendations],
        "command": report.command,
        "page": str(page),
    }
