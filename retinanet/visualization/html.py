"""Self-contained HTML pages in one style: no network, all text escaped, and no other file replaced."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from retinanet.errors import InputError
from retinanet.runtime.console import counted, escape_controls
from retinanet.visualization.draw import as_rgb

JPEG_QUALITY = 85
START = 1000  # bytes at the beginning of a file that are searched for its generator


def check_page(file: Path, *, command: str, option: str) -> None:
    """Check that a page can be written, before anything slow starts.

    Args:
        command: the command that writes the page, such as "retinanet check". It replaces only pages that it wrote.
        option: the option that names the file, for the error message.

    Raises:
        InputError: the file cannot be written, or was not written by `command`.
    """
    is_new = not file.exists()
    try:
        with open(file, "a+b") as opened:
            opened.seek(0)
            start = opened.read(START)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}; choose another {option}") from None
    if is_new:
        file.unlink()
    elif start and _generator_tag(command).encode() not in start:
        raise InputError(f"{file}: exists, and was not written by {command}; choose another {option}")


def write_page(page: str, file: Path) -> None:
    """Write a rendered page to a file.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        file.write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from None


def render_page(
    package: str, template: str, values: Mapping[str, Any], *, command: str, scripts: Sequence[str] = ()
) -> str:
    """Render a template that extends `base.html`. Text in `values` is escaped, including its control characters.

    Args:
        package: the package that contains the template and the scripts; those of this package are found as well.
        values: the variables of the template; a missing one is an error.
        command: the command that writes the page, see `check_page`.
        scripts: script files to include. The browser runs only these: the page carries their hash.
    """
    environment = _environment(package)
    script = "".join(_source(environment, name) for name in scripts)
    page = {
        "generator_tag": _generator_tag(command),
        "style": _source(environment, "style.css"),
        "script": script,
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment.get_template(template).render({**values, "page": page})


@cache  # every evaluation of a training run renders the same templates
def _environment(package: str) -> Environment:
    """The templates of a package, and those of this one."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("retinanet.visualization", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.globals["plural"] = counted
    return environment


def image_url(image: Tensor, *, quality: int = JPEG_QUALITY) -> str:
    """Encode an image (C, H, W) uint8 as a JPEG in a data URL; see `as_rgb` for other images than RGB."""
    file = io.BytesIO()
    F.to_pil_image(as_rgb(image)).save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _generator_tag(command: str) -> str:
    return f'<meta name="generator" content="{command}">'


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _visible(value: Any) -> Any:
    """Escape control characters in plain text; autoescape then escapes HTML."""
    return escape_controls(value) if type(value) is str else value
