"""`config.json` of a published folder: everything needed to use its weights, without importing torch."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from retinanet import __version__
from retinanet.config import Config
from retinanet.config.base import CountOrZero, Share, StrictModel
from retinanet.config.load import config_from_values
from retinanet.errors import InputError

FORMAT = "retinanet model 1"
FORMAT_FAMILY = "retinanet model "
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)
MAX_BYTES = 10_000_000  # maximum size of `config.json`


class PublishedConfig(StrictModel):
    """Content of `config.json`."""

    format: str
    """Always `FORMAT`."""
    retinanet: str
    """Version of retinanet that wrote the folder."""
    class_names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Class names, indexed by label."""
    category_ids: tuple[int, ...]
    """Category ids in the training annotations, indexed by label."""
    thresholds: tuple[Share | None, ...] | None
    """Score threshold of each class, indexed by label, null for a class without one; null: none were stored."""
    step: CountOrZero
    """Number of training steps."""
    num_bytes: CountOrZero
    """Size of `model.safetensors`."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Checksum of `model.safetensors`."""
    config: Config
    """The config of the run without its paths: architecture, anchors, image sizes, postprocessing and recipe."""

    @model_validator(mode="after")
    def one_entry_per_class(self) -> Self:
        for name in ("category_ids", "thresholds"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.class_names):
                raise ValueError(f"{len(self.class_names)} class_names but {len(values)} {name}")
        return self


def is_published(path: Path) -> bool:
    """Whether a path is a folder like those that `retinanet publish` writes, possibly incomplete or damaged."""
    return any((path / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE))


def check_publishable(folder: Path, *, overwrite: bool) -> None:
    """Check that a folder can be published under a path.

    Args:
        overwrite: whether a published folder there may be replaced.

    Raises:
        InputError: there is another file or folder, or a published folder that may not be replaced.
    """
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise InputError(f"{folder}: exists and is not a folder; choose another --output")
        return
    files = sorted(path.name for path in folder.iterdir())
    if not files:
        return
    others = [name for name in files if name not in FILES]
    if others or not is_published(folder):
        raise InputError(
            f"{folder}: contains {(others or files)[0]}, which `retinanet publish` did not write; choose another "
            "--output"
        )
    read_published_config(folder)
    if not overwrite:
        raise InputError(f"{folder}: is a published folder; replace it with --overwrite, or choose another --output")


def read_published_config(folder: Path) -> PublishedConfig:
    """Read and validate the `config.json` of a published folder. Keys of `config` that it lacks take their defaults.

    Raises:
        InputError: the file is missing, damaged, in another format, or has unknown keys.
    """
    file = folder / CONFIG_FILE
    try:
        with open(file, "rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        values = json.loads(content) if len(content) <= MAX_BYTES else None
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read: {error.strerror}; pass a folder written by `retinanet publish`"
        ) from None
    except (ValueError, RecursionError):
        raise InputError(f"{file}: damaged: not valid JSON; publish the model or download the folder again") from None
    found = values.get("format") if isinstance(values, dict) else None
    if not isinstance(found, str) or not found.startswith(FORMAT_FAMILY):
        raise InputError(
            f"{file}: found no format {FORMAT!r}; another program wrote this file; pass a folder written by "
            "`retinanet publish`"
        )
    written_by = f"it was written by retinanet {values.get('retinanet')}, this is {__version__}"
    if found != FORMAT:
        raise InputError(f"{file}: found format {found!r}, expected {FORMAT!r}; {written_by}: use a newer version")
    try:
        # Validated separately, for errors that name its keys, and so that missing keys take their defaults.
        config = config_from_values(_mapping(values.get("config"), file), source=f"{file}: config")
        return PublishedConfig.model_validate_json(
            json.dumps(values | {"config": json.loads(config.model_dump_json())})
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"])) or "classes"
        raise InputError(f"{file}: {key}: {problem['msg']}; {written_by}; publish the model again") from None
    except InputError as error:
        hint = "" if values.get("retinanet") == __version__ else f"\n  {written_by}"
        raise InputError(f"{error}{hint}") from None


def _mapping(value: Any, file: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{file}: config: found {value!r:.80}, expected a mapping; publish the model again")
    return value
