"""Check images, annotations, anchors and settings before training."""

import argparse
import json
import sys
from pathlib import Path

from retinanet.cli.arguments import CommandParser
from retinanet.cli.process import begin_work, exit_code

EXIT_FOUND = 1  # something is wrong with the data


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet check",
        description=__doc__,
        epilog="examples: retinanet check datasets/cells; retinanet check my.yaml --fit-anchors --page check.html",
    )
    result.add_argument("data", help="dataset folder or annotation file, config file, or name of a bundled config")
    result.add_overrides("set a config key")
    result.add_argument("--fit-anchors", action="store_true", help="search for anchors that fit the objects better")
    result.add_argument("--fast", action="store_true", help="read only the headers of images, as training itself does")
    result.add_argument(
        "--page", type=Path, default=Path("check.html"), metavar="FILE", help="HTML page to write (default: check.html)"
    )
    result.add_argument("--json", action="store_true", help="print the findings as JSON, and nothing else")
    return result


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parser().parse(sys.argv[1:] if argv is None else argv)))


def run(arguments: argparse.Namespace) -> int:
    from retinanet.cli.own_data import config_for
    from retinanet.doctor.check import check
    from retinanet.doctor.page import write_page
    from retinanet.runtime.device import resolve_device

    begin_work()
    cfg = config_for(arguments.data, arguments.overrides)
    report = check(
        cfg,
        name=arguments.data,
        device=resolve_device(cfg.device),
        decode=not arguments.fast,
        fit=arguments.fit_anchors,
        draw=not arguments.fast,
        silent=arguments.json,
    )
    write_page(report, arguments.page)
    if arguments.json:
        findings = [finding._asdict() for finding in report.sorted_findings()]
        recommended = [item._asdict() for item in report.recommendations]
        print(json.dumps({"findings": findings, "recommendations": recommended}, indent=2))
        return EXIT_FOUND if report.has_errors else 0
    for finding in report.sorted_findings():
        print(f"{finding.severity}: {finding}")
    if not report.findings:
        print("nothing found")
    for item in report.recommendations:
        print(f"{item.topic}: {item.sentence}", *(f"    {line}" for line in item.lines), sep="\n")
    if report.proposal is not None and not report.proposal.is_better:
        print("anchors: no better ones were found")
    print(f"written: {arguments.page}")
    return EXIT_FOUND if report.has_errors else 0
