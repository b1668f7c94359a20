"""The settings that all results in an output folder share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retinanet.checkpoint.file import file_checksum, resolve_checkpoint
from retinanet.config import Config
from retinanet.config.flat import flat_config
from retinanet.errors import InputError
from retinanet.interop.published_config import CONFIG_FILE, WEIGHTS_FILE, is_published
from retinanet.prediction.outputs import Outputs

# The config keys that results depend on. The device is not among them: a prediction may continue on another one.
_PREFIXES = (
    "model.",
    "postprocess.",
    "inference.",
    "data.resize.",
    "data.bands",
    "data.band_files",
    "data.value_range",
)


def settings_of(
    checkpoint: Path, cfg: Config, thresholds: Sequence[float], outputs: Outputs, frames_per_second: float | None = None
) -> dict[str, Any]:
    """Describe everything that the results depend on, except the inputs, as JSON values."""
    if is_published(checkpoint):
        files = [checkpoint / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
    else:
        files = [resolve_checkpoint(checkpoint)]  # best.pt may be a text file with the name of the checkpoint
    config = {key: value for key, value in flat_config(cfg).items() if key.startswith(_PREFIXES)}
    return {
        "checkpoint": [file_checksum(file) for file in files],
        "score threshold": thresholds[0] if len(set(thresholds)) == 1 else list(thresholds),
        "drawn images": outputs.draw,
        "labels on drawn images": outputs.labels,
        "image format": outputs.image_format,
        "crops": outputs.crops,
        "frames per second": frames_per_second,
        **config,
    }


def check_same(folder: Path, recorded: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Check that recorded results have the current settings.

    Raises:
        InputError: a setting differs.
    """
    changed = [key for key in {**recorded, **current} if recorded.get(key) != current.get(key)]
    if not changed:
        return
    described = [
        key if key == "checkpoint" else f"{key}: {recorded.get(key)}, now {current.get(key)}" for key in changed[:3]
    ]
    raise InputError(
        f"{folder}: contains results with other settings ({'; '.join(described)}); choose another --output, or start "
        "over with --overwrite"
    )
