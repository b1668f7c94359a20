"""Who may import whom: a package imports from itself and from the rows above it."""

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
PACKAGE = REPO / "retinanet"
FILES = sorted(PACKAGE.rglob("*.py"))
ROWS = [
    {"errors", "structures"},
    {"config"},
    {"runtime", "checkpoint", "formats", "visualization"},
    {"data", "detection", "evaluation"},
    {"losses", "model"},
    {"inference"},
    {"engine"},
    {"benchmarks"},
    {"ablation"},
    {"cli"},
]
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
# The public names, and the command line, stand above everything.
TOP = {"__init__", "__main__"}


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(file: Path) -> set[str]:
    modules = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import at line {node.lineno}; write it in full"
            modules.append(node.module)
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    return {module.split(".")[1] for module in modules if module.startswith("retinanet.")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPO)))
def test_imports_go_one_way(file):
    part = part_of(file)
    if part in TOP:
        return
    assert part in ROW_OF, f"{part} has no row yet; give it one here"
    for other in imported_parts(file) - {part}:
        assert ROW_OF[other] < ROW_OF[part], f"{file.name}: {part} must not import {other}"
