"""Plan a prediction: find the images and videos, name the output files, and check that nothing is overwritten.

This needs no network, so that mistakes are reported before it is loaded.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from retinanet.errors import InputError
from retinanet.formats.image_paths.band_files import annotated_files
from retinanet.formats.videos.names import check_videos_can_be_read, is_video
from retinanet.prediction.journal import JOURNAL_FILE, Journal
from retinanet.prediction.outputs import CROPS_FOLDER, Outputs, check_nothing_is_overwritten, output_stems
from retinanet.prediction.sources import find_sources


class InputFile(NamedTuple):
    """An image or video file, with its names in the results."""

    file: Path
    path: str  # absolute
    name: str  # relative to the folder that was given, with `/`
    stem: str  # of its output files, relative to the output folder


class Plan(NamedTuple):
    """The images and videos of a prediction, and where their results are written."""

    images: list[InputFile]
    folder: Path
    outputs: Outputs
    videos: list[InputFile]
    frames_per_second: float | None = None  # of a video; None: every frame

    def names(self) -> list[str]:
        """Names of all output files, relative to the folder; of crops, only the folder."""
        of_images = [name for image in self.images for name in self.outputs.names_for(image.stem)]
        of_videos = [name for video in self.videos for name in self.outputs.names_for_video(video.stem)]
        return self.outputs.shared_names() + of_images + of_videos

    def check(self, journal: Journal) -> None:
        """Check that no other file is overwritten, given the journal in the folder.

        Raises:
            InputError: a file would be overwritten.
        """
        names = self.names()
        if self.outputs.crops and (taken := [name for name in names if name.startswith(f"{CROPS_FOLDER}/")]):
            raise InputError(f"{self.folder / taken[0]}: would be in the folder for crops; rename the image's folder")
        check_nothing_is_overwritten(
            self.folder,
            [JOURNAL_FILE, *names],
            inputs=[file.path for file in self.images + self.videos],
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
    frames_per_second: float | None = None,
) -> Plan:
    """Find the images and videos, and check the output folder.

    Args:
        inputs: one or several image or video files, folders or glob patterns; see `find_sources`.
        output: the output folder.
        recursive: search subfolders.
        limit: use only the first images and videos.
        outputs: what to write; by default, drawn images and videos, and the tables.
        band_files: patterns of the files of each image, see `data.band_files`; only its first file is an input.
        frames_per_second: use only this many frames of a video per second, see `open_video`.

    Raises:
        InputError: an input does not exist or contains no images, another file would be overwritten, or the package
            that reads videos is missing.
    """
    if frames_per_second is not None and not 0 < frames_per_second < math.inf:
        raise InputError(f"frames_per_second: found {frames_per_second}, expected a number above 0")
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
        raise InputError("found no inputs, expected image or video files, folders or glob patterns")
    stems = output_stems([source.name for source in sources])  # of all, so that they do not depend on `limit`
    files = [
        InputFile(source.file, os.path.abspath(source.file), source.name, stem)
        for source, stem in zip(sources[:limit], stems[:limit], strict=True)
    ]
    videos = [file for file in files if is_video(file.file)]
    if videos:
        check_videos_can_be_read(videos[0].file)
    paths = {video.path for video in videos}
    images = [file for file in files if file.path not in paths]
    plan = Plan(images, folder, outputs or Outputs(), videos, frames_per_second)
    plan.check(journal)
    return plan
