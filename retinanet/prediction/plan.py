"""Plan a prediction: find the images, name the output files, and check that nothing is overwritten.

This needs no network, so that mistakes are reported before it is loaded.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from retinanet.errors import InputError
from retinanet.formats.image_paths.band_files import annotated_files
from retinanet.prediction.journal import JOURNAL_FILE, Journal
from retinanet.prediction.outputs import CROPS_FOLDER, Outputs, check_nothing_is_overwritten, output_stems
from retinanet.prediction.sources import find_sources


class InputImage(NamedTuple):
    """An image file, with the names that it has in the results."""

    file: Path
    path: str  # absolute
    name: str  # relative to the folder that was given, with `/`
    stem: str  # of its output files, relative to the output folder


class Plan(NamedTuple):
    """The images of a prediction, and where their results are written."""

    images: list[InputImage]
    folder: Path
    outputs: Outputs

    def names(self) -> list[str]:
        """Names of all output files, relative to the folder; of crops, only the folder."""
        return self.outputs.shared_names() + [
            name for image in self.images for name in self.outputs.names_for(image.stem)
        ]

    def check(self, journal: Journal) -> None:
        """Check that no other file is overwritten, given the journal in the folder.

        Raises:
            InputError: a file would be overwritten, or the folder contains the results of other images.
        """
        names = self.names()
        if self.outputs.crops and (taken := [name for name in names if name.startswith(f"{CROPS_FOLDER}/")]):
            raise InputError(f"{self.folder / taken[0]}: would be in the folder for crops; rename the image's folder")
        check_nothing_is_overwritten(
            self.folder,
            [JOURNAL_FILE, *names],
            inputs=[image.path for image in self.images],
            ours={JOURNAL_FILE, *journal.names},
        )


def plan_prediction(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    recursive: bool = False,
    limit: int | None = None,
    outputs: Outputs | None = None,
    band_files: Sequence[str] | None = None,
) -> Plan:
    """Find the images and check the output folder.

    Args:
        inputs: one or several image files, folders or glob patterns; see `find_sources`.
        output: the output folder.
        recursive: search subfolders.
        limit: use only the first images.
        outputs: what to write; by default, drawn images and the tables.
        band_files: patterns of the files of each image, see `data.band_files`; only its first file is an input.

    Raises:
        InputError: an input does not exist or contains no images, or another file would be overwritten.
    """
    folder = Path(output)
    journal = Journal(folder)
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    sources = find_sources(
        [os.fspath(item) for item in given], output=folder, written=journal.names, recursive=recursive
    )
    if band_files is not None:
        annotated = set(annotated_files([str(source.file) for source in sources], band_files))
        sources = [source for source in sources if str(source.file) in annotated]
    if not sources:
        raise InputError("found no inputs, expected image files, folders or glob patterns")
    stems = output_stems([source.name for source in sources])  # of all, so that they do not depend on `limit`
    images = [
        InputImage(source.file, os.path.abspath(source.file), source.name, stem)
        for source, stem in zip(sources[:limit], stems[:limit], strict=True)
    ]
    plan = Plan(images, folder, outputs or Outputs())
    plan.check(journal)
    return plan
