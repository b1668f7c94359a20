"""The id of a tracked run, kept in the run folder, so that a resumed run continues the same record."""

from collections.abc import Mapping
from pathlib import Path

from retinanet.errors import InputError

FOLDER = "tracking"  # in the run folder


def folder_of_trackers(folder: Path) -> Path:
    """Create the folder in a run folder for the files of trackers, and return its path."""
    (folder / FOLDER).mkdir(exist_ok=True)
    return folder / FOLDER


def read_id(folder: Path, tracker: str) -> str | None:
    """The id that a tracker has stored for the run in a folder; None if there is none."""
    file = folder / FOLDER / f"{tracker}.txt"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def write_id(folder: Path, tracker: str, run_id: str) -> None:
    """Store the id of a run in its folder."""
    (folder_of_trackers(folder) / f"{tracker}.txt").write_text(run_id + "\n", encoding="utf-8")


def named(kind: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics with the names that they have in TensorBoard, such as `train/loss`."""
    return {f"{kind}/{name}": value for name, value in metrics.items()}


def not_installed(package: str, tracker: str) -> InputError:
    """The error for a tracker whose package is not installed."""
    return InputError(
        f"train.trackers: {tracker} needs the package {package}, which is not installed: "
        f"pip install {package}, or pip install 'retinanet[tracking]' for all trackers"
    )
