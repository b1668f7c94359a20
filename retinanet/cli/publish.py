"""Write a checkpoint as a folder to share, with weights, config and model card, and upload it to a hub."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from retinanet.cli.arguments import CommandParser, output_path
from retinanet.cli.checkpoint import named_checkpoint
from retinanet.cli.interrupts import begin_work
from retinanet.cli.process import exit_code
from retinanet.interop.published_config import (
    CARD_FILE,
    EXPORT_SUFFIXES,
    WEIGHTS_FILE,
    check_export_file,
    check_publishable,
    is_published,
)
from retinanet.runtime.console import escape_controls, format_bytes

if TYPE_CHECKING:
    from retinanet.engine.publish import Publication


def parser() -> CommandParser:
    result = CommandParser(
        prog="retinanet publish",
        description=__doc__,
        epilog="examples: retinanet publish runs/cells --output published/cells --license apache-2.0; "
        "retinanet publish published/cells --upload my-lab/cells; "
        "retinanet publish runs/cells --to torchvision --output cells.pth",
    )
    result.add_argument(
        "checkpoint",
        type=Path,
        help="checkpoint, or run folder (its best checkpoint if there is one, otherwise its last); with --upload "
        "or --to, also a published folder",
    )
    result.add_argument("--output", type=output_path, metavar="DIR", help="folder to write; with --to, the file")
    result.add_argument(
        "--to",
        choices=tuple(EXPORT_SUFFIXES),
        metavar="FRAMEWORK",
        help=f"write only a file of weights for {' or '.join(EXPORT_SUFFIXES)}",
    )
    result.add_argument("--license", type=license_id, metavar="ID", help="licence of the weights, such as apache-2.0")
    result.add_argument(
        "--dataset",
        metavar="TEXT",
        help="what the training data is, for the model card (default: the names of the annotation files)",
    )
    result.add_argument("--overwrite", action="store_true", help="replace a published folder")
    result.add_argument("--upload", metavar="OWNER/NAME", help="upload the folder to the Hugging Face Hub")
    result.add_argument(
        "--public", action="store_true", help="let everyone see a new repository (default: it is private)"
    )
    return result


def license_id(text: str) -> str:
    """The identifier of a licence, in lower case, as hubs write it.

    Raises:
        ArgumentTypeError: the text is not an identifier.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text.lower()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an identifier such as apache-2.0, mit or other")
    return text.lower()


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parsed(sys.argv[1:] if argv is None else argv)))


def parsed(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments, and reject those that contradict each other."""
    own_parser = parser()
    arguments = own_parser.parse(argv)
    if arguments.public and not arguments.upload:
        own_parser.error("--public has no effect without --upload", "add --upload OWNER/NAME")
    if arguments.to:
        given = [name for name in ("license", "dataset", "overwrite", "upload") if getattr(arguments, name)]
        if given:
            own_parser.error(f"--{given[0]} does not apply to a file of weights", f"omit it, or --to {arguments.to}")
    elif is_published(arguments.checkpoint):
        if not arguments.upload:
            own_parser.error(f"{arguments.checkpoint} is published already", "add --upload OWNER/NAME to upload it")
        given = [name for name in ("output", "license", "dataset", "overwrite") if getattr(arguments, name)]
        if given:
            own_parser.error(
                f"--{given[0]} does not apply to a published folder", f"edit its {CARD_FILE}, or pass its checkpoint"
            )
    if not arguments.output and (arguments.to or not is_published(arguments.checkpoint)):
        written = "FILE, the file" if arguments.to else "DIR, the folder"
        own_parser.error("--output is missing", f"add --output {written} to write")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    if arguments.to:
        export(arguments)
        return
    if arguments.upload:
        from retinanet.interop.hub import check_uploadable

        check_uploadable(arguments.upload)
    if arguments.output:  # otherwise, the checkpoint is a published folder
        publish(arguments)
    if arguments.upload:
        from retinanet.interop.hub import upload

        begin_work()
        address = upload(arguments.output or arguments.checkpoint, arguments.upload, public=arguments.public)
        print(f"uploaded: {address}")


def export(arguments: argparse.Namespace) -> None:
    """Write a file of weights for another framework."""
    path = named_checkpoint(arguments.checkpoint)
    check_export_file(arguments.output, arguments.to)

    from retinanet.interop.export_file import write_export
    from retinanet.interop.published import read_model

    begin_work()
    write_export(arguments.output, read_model(path), arguments.to)
    print(f"written: {arguments.output} ({format_bytes(arguments.output.stat().st_size)})")
    print("note: the file contains only weights; anchors, image sizes and thresholds are settings of the other program")


def publish(arguments: argparse.Namespace) -> None:
    """Write the published folder, and print what it contains."""
    path = named_checkpoint(arguments.checkpoint)
    check_publishable(arguments.output, overwrite=arguments.overwrite)

    from retinanet.engine.publish import publish_checkpoint

    begin_work()
    publication = publish_checkpoint(
        path,
        arguments.output,
        name=arguments.upload,
        license=arguments.license,
        dataset=arguments.dataset,
        overwrite=arguments.overwrite,
    )
    print(escape_controls(summary(publication)))
    for note in notes(publication, arguments):
        print(f"note: {note}")


def summary(publication: "Publication") -> str:
    """The files of a published folder with their sizes."""
    width = max(map(len, publication.sizes))
    lines = [f"written: {publication.folder}"]
    for name, size in publication.sizes.items():
        share = size / publication.checkpoint_size
        compared = f" ({share:.0%} of the checkpoint's {format_bytes(publication.checkpoint_size)})"
        lines.append(f"  {name:<{width}}  {format_bytes(size)}{compared if name == WEIGHTS_FILE else ''}")
    return "\n".join(lines)


def notes(publication: "Publication", arguments: argparse.Namespace) -> list[str]:
    """What the model card lacks, and how to add it."""
    found = []
    if publication.scores is None or publication.scores.is_from_training:
        lacks = "says that the weights were not evaluated" if publication.scores is None else "has no interval of AP"
        found.append(f"the model card {lacks}; run `retinanet eval`, then publish again with --overwrite")
    if not arguments.license:
        found.append("the model card states no licence; add --license ID")
    return found
