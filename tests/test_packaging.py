"""The wheel and the installed package: contents, metadata, entry point, configs."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from retinanet import __version__

REPO = Path(__file__).resolve().parent.parent
PAGE_PARTS = ("*.css", "*.html", "*.js", "*.md")
MIN_SETUPTOOLS = (77, 0)  # as in pyproject.toml: the first version that supports `license = "Apache-2.0"` (PEP 639)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the source tree, because a build writes into its source folder, and an older build there would leak
    into the wheel."""
    if importlib.util.find_spec("pip") is None or importlib.util.find_spec("setuptools") is None:
        pytest.skip("building a wheel without downloads needs pip and setuptools in this environment")
    version = importlib.metadata.version("setuptools")
    if tuple(map(int, version.split(".")[:2])) < MIN_SETUPTOOLS:
        pytest.skip(f"setuptools is {version}; building a wheel without downloads needs 77.0 or later")
    folder = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, folder)
    for name in ("retinanet", "configs", "tools", "scripts", "tests", "benchmarks"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run_pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run_pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


def files_in(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)}


def test_wheel_contains_the_package_and_the_configs_once_and_nothing_else(source, wheel):
    expected = {
        "retinanet/py.typed",
        *(f"retinanet/{name}" for name in files_in(source / "retinanet", "*.py")),
        *(f"retinanet/{name}" for kind in PAGE_PARTS for name in files_in(source / "retinanet", kind)),
        *(f"retinanet/configs/{name}" for name in files_in(source / "configs", "*.py")),
        *(f"retinanet/configs/{name}" for name in files_in(source / "configs", "*.yaml")),
    }
    with zipfile.ZipFile(wheel) as archive:
        held = [name for name in archive.namelist() if ".dist-info/" not in name]
    # A folder in retinanet/ without an __init__.py would be missing.
    assert sorted(held) == sorted(expected)


def test_wheel_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        read = {name.split("/")[1]: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert re.search(rf"^Version: {re.escape(__version__)}$", read["METADATA"], re.MULTILINE)
    assert re.search(r"^Requires-Python: >=3\.11$", read["METADATA"], re.MULTILINE)
    assert re.search(r"^License-Expression: Apache-2\.0$", read["METADATA"], re.MULTILINE)
    assert "retinanet = retinanet.__main__:main" in read["entry_points.txt"]


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_installed_package_finds_its_modules_and_configs(kind, source, wheel, tmp_path):
    site = tmp_path / "site"
    if kind == "wheel":
        run_pip("install", "--no-deps", "--no-index", "--target", site, wheel)
    else:
        run_pip("install", "--no-deps", "--no-index", "--no-build-isolation", "--target", site, "--editable", source)
    # With -S, .pth files are not run; otherwise, an editable install of the repository would be found first.
    modules = ("__main__", "cli", "cli.train", "benchmarks.measure")
    code = f"""
import sys
MODULES = {modules!r}
sys.path.insert(0, {str(site)!r})
import importlib.resources, importlib.util, site
site.addsitedir({str(site)!r})
print([importlib.util.find_spec("retinanet." + name).origin for name in MODULES])
folder = importlib.resources.files("retinanet.configs")
print(sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.yaml")))
"""
    others = [path for path in sys.path if path and Path(path).resolve() not in (REPO, REPO / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(others)}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    origins, configs = map(ast.literal_eval, done.stdout.splitlines())
    root = site if kind == "wheel" else source
    assert all(origin.startswith(f"{root}{os.sep}") for origin in origins), origins
    assert files_in(REPO / "configs", "*.yaml") <= set(configs)
