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
EXPORT_SUFFIXES = {"torchvision": (".pth",), "detectron2": (".pkl", ".pth")}  # of the files for other frameworks
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
    """Whether a path is a folder that `retinanet publish` wrote.

    Its `config.json` names a format of retinanet, or is damaged. Other programs write files of that name, too.
    """
    try:
        values = _read(path / CONFIG_FILE)
    except OSError:
        return False
    except (ValueError, RecursionError):
        return True
    return _format_of(values) is not None


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


def check_export_file(file: Path, framework: str) -> None:
    """Check that weights for another framework can be written to a file.

    Raises:
        InputError: the file exists, or has a suffix that the framework does not read.
    """
    suffixes = EXPORT_SUFFIXES[framework]
    if file.suffix not in suffixes:
        raise InputError(
            f"{file}: found the suffix {file.suffix!r}, expected {' or '.join(suffixes)} for a file of {framework}; "
            f"choose another --output, such as {file.with_suffix(suffixes[0])}"
        )
    if os.path.lexists(file):
        raise InputError(f"{file}: exists; choose another --output")


def read_published_config(folder: Path) -> PublishedConfig:
    """Read and validate the `config.json` of a published folder. Keys of `config` that it lacks take their defaults.

    Raises:
        InputError: the file is missing, damaged, in another format, or has unknown keys.
    """
    file = folder / CONFIG_FILE
    try:
        values = _read(file)
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read: {error.strerror}; pass a folder written by `retinanet publish`"
        ) from None
    except (ValueError, RecursionError):
        raise InputError(f"{file}: damaged: not valid JSON; publish the model or download the folder again") from None
    found = _format_of(values)
    if found is None:
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


def _read(file: Path) -> Any:
    """The content of a JSON file, or None if it is too long for one of ours."""
    with open(file, "rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    return json.loads(content) if len(content) <= MAX_BYTES else None


def _format_of(values: Any) -> str | None:
    found = values.get("format") if isinstance(values, dict) else None
    return found if isinstance(found, str) and found.startswith(FORMAT_FAMILY) else None


def _mapping(value: Any, file: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{file}: config: found {value!r:.80}, expected a mapping; publish the model again")
    return value
