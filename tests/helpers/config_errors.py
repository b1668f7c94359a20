"""Error messages of `load_config`, in a form that tests can compare."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from retinanet.config.load import load_config
from retinanet.errors import InputError


def error_message(path: Path, overrides: Sequence[str] = ()) -> str:
    """Message of the InputError that loading raises, without the folder's name."""
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    return str(caught.value).replace(f"{Path(path).parent}/", "")


def only_problem(path: Path, overrides: Sequence[str] = ()) -> str:
    """The single line below the heading that names the file mine.yaml."""
    heading, *lines = error_message(path, overrides).splitlines()
    assert heading.startswith("mine.yaml") and heading.endswith("1 problem(s) in the config"), heading
    assert len(lines) == 1, lines
    return lines[0].strip()
