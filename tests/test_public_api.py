"""The public names of the package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import retinanet

MODULE = Path(retinanet.__file__)
NAMES = sorted(set(retinanet.__all__) - {"__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_importable_and_listed(name):
    assert getattr(retinanet, name).__name__ == name
    assert name in dir(retinanet)


def test_type_checkers_see_the_names_that_exist_at_run_time():
    (block,) = (node for node in ast.parse(MODULE.read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == retinanet._MODULES
    assert sorted(imported) == NAMES
    assert (MODULE.parent / "py.typed").exists()


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        retinanet.Nothing  # noqa: B018


def test_importing_the_package_does_not_import_torch():
    program = "import sys, retinanet; dir(retinanet); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=MODULE.parents[1]).returncode == 0
