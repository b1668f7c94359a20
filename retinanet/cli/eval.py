"""Score a checkpoint, or a file of detections, on a validation set, and find the best score thresholds."""

import argparse
import json
import math
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from retinanet.cli import checkpoint
from retinanet.cli.arguments import CommandParser, count, fraction, output_path
from retinanet.cli.interrupts import begin_work
from retinanet.cli.process import exit_code
from retinanet.config import Config, TrainConfig
from retinanet.config.load import with_overrides
from retinanet.engine.run_files import find_checkpoint, is_detections_file, run_folder_of
from retinanet.errors import InputError
from retinanet.evaluation.settings import settings_that_change_ap
from retinanet.formats.sources import check_sources
from retinanet.interop.published_config import is_published
from retinanet.runtime.console import escape_controls

if TYPE_CHECKING:
    from retinanet.engine.evaluate_checkpoint import Evaluated
    from retinanet.evaluation.analysis import Analysis

SIZES = ("small", "medium", "large")


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet eval",
        description=__doc__,
        epilog="examples: retinanet eval runs/cells; retinanet eval runs/cells --report cells.html; "
        "retinanet eval runs/cells --precision 0.9 --store-thresholds; "
        "retinanet eval runs/cells --against runs/other; "
        "retinanet eval runs/cells/checkpoints/last.pt postprocess.nms_iou=0.6",
    )
    result.add_argument("checkpoint", type=Path, help=f"{checkpoint.HELP}; or a JSON file of detections")
    result.add_overrides("set a key of the config in the checkpoint")
    result.add_argument(
        "--output",
        type=output_path,
        metavar="DIR",
        help="folder for evaluation.json and detections.json (default: the run folder; none for a part of the data, or "
        "for a published folder)",
    )
    result.add_argument(
        "--report",
        type=output_path,
        metavar="FILE",
        help="HTML page to write, with curves, errors, and images with objects and detections",
    )
    result.add_argument("--json", action="store_true", help="print the results as JSON, and nothing else")
    part = result.add_argument_group("part of the data")
    part.add_argument("--classes", type=names, metavar="A,B", help="score only these classes")
    part.add_argument(
        "--images",
        metavar="NAMES",
        help="use only these images: a pattern such as 'night_*', or a file with one name per line",
    )
    part.add_argument("--sizes", choices=SIZES, help="AP and thresholds of each class for objects of this size only")
    part.add_argument(
        "--weights", choices=("average", "last"), help="weights to evaluate (default: the average, if there is one)"
    )
    points = result.add_argument_group("score thresholds")
    points.add_argument(
        "--precision", type=fraction, metavar="P", help="thresholds with at least this precision (default: best F1)"
    )
    points.add_argument("--recall", type=fraction, metavar="R", help="thresholds with at least this recall")
    points.add_argument("--store-thresholds", action="store_true", help="store them in the checkpoint, for prediction")
    certainty = result.add_argument_group("certainty")
    certainty.add_argument(
        "--bootstrap",
        type=count,
        default=1000,
        metavar="N",
        help="resamples for 95 %% intervals; 0: none (default: 1000)",
    )
    certainty.add_argument(
        "--against", type=Path, metavar="OTHER", help="compare with another checkpoint, run or file of detections"
    )
    return result


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    found = tuple(name.strip() for name in text.split(","))
    if "" in found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected different names separated by commas")
    return found


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parsed(sys.argv[1:] if argv is None else argv)))


def parsed(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments, and reject mutually exclusive ones."""
    own_parser = parser()
    arguments = own_parser.parse(argv)
    if arguments.precision is not None and arguments.recall is not None:
        own_parser.error("--precision and --recall are mutually exclusive", "pass one of them")
    if arguments.store_thresholds and (arguments.classes or arguments.sizes):
        own_parser.error("--store-thresholds needs the thresholds of all objects", "omit --classes and --sizes")
    if arguments.report and arguments.sizes:
        own_parser.error("--report shows objects of all sizes", "omit --sizes")
    if is_detections_file(arguments.checkpoint) and (arguments.store_thresholds or arguments.weights):
        option = "--store-thresholds" if arguments.store_thresholds else "--weights"
        own_parser.error(
            f"{option} needs a checkpoint, found a file of detections", "pass a checkpoint or a run folder"
        )
    return arguments


def run(arguments: argparse.Namespace) -> None:
    out = sys.stdout
    with redirect_stdout(sys.stderr) if arguments.json else nullcontext():
        evaluate(arguments, out)


def evaluate(arguments: argparse.Namespace, out: TextIO) -> None:
    """Evaluate, write the results, and print them to `out`."""
    path = arguments.checkpoint
    cfg = None
    if is_detections_file(path):
        cfg = config_for_file(path, arguments.overrides)
    else:
        path = checkpoint.named_checkpoint(path)
        checkpoint.check_early(path, arguments.overrides)
        if arguments.store_thresholds and is_published(path):
            raise InputError(
                f"--store-thresholds: {path} is a published folder; store them in its checkpoint, and publish it again"
            )
    against = arguments.against and detector(arguments.against)

    from retinanet.engine import evaluate_checkpoint as engine
    from retinanet.engine.evaluation_files import DETECTIONS_FILE, METRICS_FILE, without_nan, write_metrics
    from retinanet.engine.evaluation_report import explain, write_report
    from retinanet.evaluation.analysis import analyse
    from retinanet.evaluation.operating_points import Requirement
    from retinanet.evaluation.selection import size_range

    if arguments.report:
        check_report(arguments.report)
    begin_work()
    # The results of a run are those of all its validation images and classes.
    folder = arguments.output or (None if restrictions(arguments) else checkpoint.default_output(path))
    part = {"images": arguments.images, "against": against}
    if cfg is not None:
        evaluated = engine.evaluate_file(cfg, path, output=folder, **part)
    else:
        evaluated = engine.evaluate_model(path, arguments.overrides, output=folder, weights=arguments.weights, **part)
    if evaluated is None:  # this is not the main process
        return
    if arguments.classes:
        evaluated = evaluated.of_classes(arguments.classes)
    explained = explain(evaluated, with_anchors=arguments.report is not None)
    analysis = analyse(
        evaluated.data,
        evaluated.evaluation.detections,
        other=evaluated.other,
        names=(str(arguments.checkpoint), str(arguments.against)),
        max_detections=evaluated.cfg.evaluation.max_detections,
        sizes=size_range(arguments.sizes),
        requirement=Requirement(arguments.precision, arguments.recall),
        num_resamples=arguments.bootstrap,
        are_thresholds_stored=arguments.store_thresholds,
        diagnoses=explained.diagnoses,
    )
    if arguments.report:
        analysis = write_report(
            arguments.report,
            evaluated,
            analysis,
            title=str(arguments.checkpoint),
            facts=facts_of(arguments, evaluated),
            run_folder=run_folder_of(path) if cfg is None else None,
            anchors=explained.anchors,
        )
    notes = settings_that_change_ap(evaluated.cfg)
    results = evaluated.metrics | {"restricted_to": restrictions(arguments), "notes": notes} | analysis.as_json()
    if folder is not None:
        write_metrics(folder, results)
    if arguments.store_thresholds:
        engine.store_in_checkpoint(path, analysis.thresholds)
    if arguments.json:
        print(json.dumps(without_nan(results), indent=2), file=out)
        return
    print_results(evaluated, analysis, arguments)
    files = [METRICS_FILE, *([DETECTIONS_FILE] if cfg is None else [])]
    written = [] if folder is None else [str(folder / name) for name in files]
    if arguments.report:
        written.append(str(arguments.report))
    reason = "only a part was scored" if restrictions(arguments) else "a published folder stays unchanged"
    line = f"written: {', '.join(written)}" if written else f"not written, because {reason}; set --output"
    stored = f"\n{stored_in(path, analysis)}" if arguments.store_thresholds else ""
    print(f"\n{line}{stored}\n\n{escape_controls(analysis.finding)}")


def config_for_file(path: Path, overrides: list[str]) -> Config:
    """The config for scoring a file of detections: the defaults, with the validation set that overrides name.

    Raises:
        InputError: there is no such file, an override is invalid, or the validation set is not set or does not exist.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of detections; pass a checkpoint, a run folder or a COCO results file")
    cfg = with_overrides(Config(train=TrainConfig(steps=1)), overrides, source="overrides")
    if not cfg.data.val:
        raise InputError(
            "data.val: not set; add data.val=PATH, the annotations to score the detections on: an annotation file or a "
            "dataset folder"
        )
    check_sources(cfg.data.val, key="data.val")
    return cfg


def detector(path: Path) -> Path:
    """The checkpoint or file of detections that `--against` names.

    Raises:
        InputError: it does not exist.
    """
    if is_detections_file(path) and not path.is_file():
        raise InputError(f"--against: {path}: no such file of detections")
    return path if is_detections_file(path) else find_checkpoint(path)


def check_report(file: Path) -> None:
    """Check that the report can be written, before the evaluation.

    Raises:
        InputError: it cannot, or the file was not written by this command.
    """
    from retinanet.report.evaluation_page import COMMAND
    from retinanet.visualization.html import check_page

    check_page(file, command=COMMAND, option="--report")


def facts_of(arguments: argparse.Namespace, evaluated: "Evaluated") -> dict[str, str]:
    """Facts about the evaluation for the report, by name."""
    from retinanet.engine.evaluation_report import facts_of_evaluation

    chosen = {
        f"only these {name}": ", ".join(only) if isinstance(only, tuple) else only
        for name, only in restrictions(arguments).items()
    }
    weights = {"weights": arguments.weights} if arguments.weights else {}
    return facts_of_evaluation(evaluated) | weights | chosen


def restrictions(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parts of the data that the arguments select."""
    chosen = {"classes": arguments.classes, "images": arguments.images, "sizes": arguments.sizes}
    return {name: value for name, value in chosen.items() if value}


def stored_in(path: Path, analysis: "Analysis") -> str:
    """A message about the stored thresholds, and the default for classes without one."""
    from retinanet.inference.thresholds import DEFAULT_THRESHOLD

    lacking = [result.name for result in analysis.classes if result.point is None]
    rest = f"; {DEFAULT_THRESHOLD} applies to {', '.join(lacking)}, which have none" if lacking else ""
    return escape_controls(f"thresholds stored in {path}{rest}")


def print_results(evaluated: "Evaluated", analysis: "Analysis", arguments: argparse.Namespace) -> None:
    from retinanet.evaluation.class_results import class_table

    print(evaluated.evaluation.scores.summary)
    if analysis.intervals is not None:
        _, low, high = analysis.intervals.metrics["AP"]
        if not math.isnan(low):  # as with a single image
            print(f"95 % interval of AP: {low:.3f} to {high:.3f} ({analysis.intervals.num_resamples} resamples)")
    sizes = f" of {arguments.sizes} objects" if arguments.sizes else ""
    print(f"\neach class{sizes}, and the score threshold with {analysis.requirement}:")
    print(escape_controls(class_table(analysis.classes, analysis.requirement)))
    for diagnosis in analysis.diagnoses:
        print(f"\n{escape_controls(f'cause of the low AP: {diagnosis.cause}')}")
        print(escape_controls(f"  evidence: {diagnosis.evidence}\n  remedy: {diagnosis.remedy}"))
    for sentence in settings_that_change_ap(evaluated.cfg):
        print(f"\nnote: {sentence}")
    if analysis.comparison is not None:
        print(f"\n{escape_controls(analysis.comparison.sentence)}")
