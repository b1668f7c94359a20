"""Log a run to Trackio."""

import os
from collections.abc import Mapping
from pathlib import Path

from retinanet.config import Config
from retinanet.config.flat import flat_config
from retinanet.tracking.run_id import named, not_installed, read_id, write_id


class TrackioTracker:
    """Callback that logs config and metrics to Trackio, in the project TRACKIO_PROJECT (default: retinanet).

    A resumed run continues the same Trackio run. Trackio reads its other settings, such as TRACKIO_DIR, from the
    environment.

    Raises:
        InputError: trackio is not installed.
    """

    def __init__(self) -> None:
        try:
            import trackio
        except ImportError:
            raise not_installed("trackio", "trackio") from None
        self.trackio = trackio

    def on_start(self, folder: Path, cfg: Config, step: int) -> None:
        name = read_id(folder, "trackio") if step else None
        run = self.trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "retinanet"),
            name=name,
            resume="must" if name else "never",
            config=flat_config(cfg) | {"folder": str(folder)},
        )
        write_id(folder, "trackio", run.name)

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.trackio.log(named("train", metrics), step=step)

    def on_eval(self, step: int, metrics: Mapping[str, float], detections: object) -> None:
        self.trackio.log(named("eval", metrics), step=step)

    def on_end(self, result: object) -> None:
        self.trackio.finish()

    def on_error(self, error: BaseException) -> None:
        self.trackio.finish()
