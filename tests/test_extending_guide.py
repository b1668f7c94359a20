"""Follow docs/extending.md word for word in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retinanet.data.synthetic.shapes import write_shapes
from tests.helpers.markdown import apply_edit, blocks_in, commands_in

REPO = Path(__file__).parent.parent
BLOCKS = blocks_in(REPO / "docs" / "extending.md")
SECTIONS = list(dict.fromkeys(block.section for block in BLOCKS if block.language == "diff"))
NEW_FILE = re.compile(r"# (\S+/\S+\.\w+)\n\n?")  # the first line of a block that contains a whole file


# The tests and the commands of a section, in one process: most of the time is spent on imports.
FOLLOWED = """
import json, os, runpy, sys
import pytest
root, tests, commands = json.loads(sys.argv[1])
assert pytest.main(["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", root, *tests]) == 0
for sys.argv in commands:
    start = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
    try:
        start(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, sys.argv
"""


def copy_package(root: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "retinanet", root / "retinanet", ignore=ignored)
    shutil.copytree(REPO / "tests" / "helpers", root / "tests" / "helpers", ignore=ignored)


def follow_edits(section: str, root: Path) -> list[Path]:
    """Create the new files and apply the edits of a section. Return the new files."""
    new_files = []
    for block in BLOCKS:
        if block.section != section:
            continue
        if block.language == "diff":
            apply_edit(block.text, root)
        elif block.language == "python" and (header := NEW_FILE.match(block.text)):
            file = root / header[1]
            assert not file.exists(), f"{header[1]} already exists"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text[header.end() :], encoding="utf-8")
            new_files.append(file)
    return new_files


def run(root: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_guide_covers_every_kind_of_extension():
    assert {section.split()[-1] for section in SECTIONS} == {"backbone", "loss", "format", "metric"}


@pytest.mark.parametrize("section", SECTIONS)
def test_edits_in_the_guide_apply_and_the_result_compiles(section, tmp_path):
    copy_package(tmp_path)
    follow_edits(section, tmp_path)
    run(tmp_path, "-m", "compileall", "-q", "retinanet", "tests")


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_tests_and_commands_in_the_guide_succeed(section, tmp_path):
    copy_package(tmp_path)
    write_shapes(tmp_path / "datasets" / "shapes", num_train=8, num_val=4, progress=False)
    new_files = follow_edits(section, tmp_path)
    tests = [str(file) for file in new_files if file.name.startswith("test_")]
    assert tests, f"{section} shows no test"
    commands = [
        words
        for block in BLOCKS
        if block.section == section and block.language == "bash"
        for words in commands_in(block.text)
        if words[0] in ("retinanet", "python")
    ]
    assert commands, f"{section} shows no command"
    programs = [words[1:] if words[0] == "python" else words for words in commands]
    run(tmp_path, "-c", FOLLOWED, json.dumps([str(tmp_path), tests, programs]))
