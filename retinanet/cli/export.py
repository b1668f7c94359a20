"""Export a detector for another runtime, and verify that it detects the same objects."""

import argparse
import re
import sys
from pathlib import Path

from retinanet.cli import checkpoint
from retinanet.cli.arguments import CommandParser, output_path
from retinanet.cli.interrupts import begin_work
from retinanet.cli.process import exit_code
from retinanet.config import DataSource
from retinanet.engine.run_files import run_folder_of, with_paths_of_run
from retinanet.export.metadata import SUFFIXES, require_packages
from retinanet.formats.sources import check_sources
from retinanet.interop.published_config import WEIGHTS_FILE, is_published

EXIT_REJECTED = 1
QUANTISED = ("onnx", "openvino")


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet export",
        description=__doc__,
        epilog="example: retinanet export runs/cells --to onnx --output exported/cells.onnx --verify datasets/cells",
    )
    result.add_argument("checkpoint", type=Path, help=checkpoint.HELP)
    result.add_overrides("set a key of the config in the checkpoint")
    result.add_argument("--to", required=True, choices=SUFFIXES, metavar="FORMAT", help=", ".join(SUFFIXES))
    result.add_argument(
        "--output",
        type=output_path,
        required=True,
        metavar="FILE",
        help="file to write: .onnx, .pt2 for torch-export and aot, .xml for openvino",
    )
    result.add_argument(
        "--nms",
        choices=("inside", "outside"),
        default="outside",
        help="NMS inside the exported program, or outside, in NumPy (default)",
    )
    result.add_argument(
        "--size", type=size, metavar="HxW", help="the only padded shape to accept, as height and width (default: any)"
    )
    result.add_argument(
        "--int8",
        action="store_true",
        help="quantise with images of the training set (onnx, openvino); only AP is verified, so it needs --verify",
    )
    result.add_argument(
        "--weights", choices=("average", "last"), help="weights (default: the average, if there is one)"
    )
    verification = result.add_argument_group("verification")
    verification.add_argument(
        "--images", type=Path, metavar="FOLDER", help="images to compare detections on (default: the validation set)"
    )
    verification.add_argument(
        "--verify", metavar="DATA", help="compare AP on this dataset too: an annotation file or a dataset folder"
    )
    return result


def size(text: str) -> tuple[int, int]:
    """Height and width, as in 800x1344.

    Raises:
        ArgumentTypeError: the text is not such a size.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected HEIGHTxWIDTH, such as 800x1344")
    return int(found[1]), int(found[2])


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parsed(sys.argv[1:] if argv is None else argv)))


def parsed(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments, and reject combinations that do not work."""
    own_parser = parser()
    arguments = own_parser.parse(argv)
    if arguments.int8 and arguments.to not in QUANTISED:
        expected = " or ".join(QUANTISED)
        own_parser.error(f"--int8 needs --to {expected}, found --to {arguments.to}", "choose one, or omit --int8")
    if arguments.int8 and not arguments.verify:
        own_parser.error("--int8 changes all detections, so only AP can be verified", "pass --verify DATA")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    require_packages(arguments.to)
    path = checkpoint.named_checkpoint(arguments.checkpoint)
    checkpoint.check_early(path, arguments.overrides, has_data=False)
    sources = (DataSource(annotations=arguments.verify),) if arguments.verify else ()
    if sources:
        check_sources(sources, key="--verify")

    from retinanet.checkpoint.file import file_checksum, resolve_checkpoint
    from retinanet.export.images import calibration_images, read_data, verification_images
    from retinanet.export.verified import check_output, export_verified
    from retinanet.export.verify import ExportRejected
    from retinanet.export.write import REFERENCE, check_any_size, check_compiler, check_size, metadata_of
    from retinanet.inference.predictor import Predictor
    from retinanet.runtime.logging import start_logging

    begin_work()
    start_logging()
    check_output(arguments.output, arguments.to)
    if arguments.to == "aot":
        check_compiler()
    predictor = Predictor.from_checkpoint(path, [*arguments.overrides, *REFERENCE], weights=arguments.weights)
    if arguments.size:
        check_size(arguments.size, predictor)
    elif arguments.to == "aot":
        check_any_size(predictor)
    metadata = metadata_of(
        predictor,
        checkpoint=file_checksum(path / WEIGHTS_FILE if is_published(path) else resolve_checkpoint(path)),
        nms=arguments.nms,
        padded_shape=arguments.size,
        precision="int8" if arguments.int8 else "float32",
    )
    cfg = with_paths_of_run(predictor.cfg, run_folder_of(path))
    if arguments.int8:
        images = calibration_images(cfg, predictor, metadata)
    else:
        images = verification_images(cfg, predictor, metadata, arguments.images)
    data = read_data(cfg, sources, predictor.class_names, key="--verify") if sources else None
    try:
        results = export_verified(
            predictor,
            arguments.output,
            metadata,
            to=arguments.to,
            images=images,
            data=data,
            progress=lambda message: print(f"{message} ...", flush=True),
        )
    except ExportRejected as error:
        print(f"error: not written, because the exported program differs: {error}", file=sys.stderr)
        return EXIT_REJECTED
    for result in results:
        print(f"verified: {result}")
    print(f"written: {arguments.output}")
    return 0
