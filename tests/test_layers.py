"""The structure of the package: allowed imports, modules that print, and maximum file length."""

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
PACKAGE = REPO / "retinanet"
FILES = sorted(PACKAGE.rglob("*.py"))
TEST_FILES = sorted((REPO / "tests").rglob("*.py"))

# A package imports from itself and from the rows above its own.
ROWS = [
    {"errors", "structures"},
    {"config"},
    {"runtime", "checkpoint", "formats"},
    {"data", "detection", "evaluation", "visualization"},
    {"losses", "model", "doctor"},
    {"interop"},
    {"inference"},
    {"prediction", "report", "export", "tracking"},
    {"engine"},
    {"benchmarks"},
    {"ablation"},
    {"cli"},
]
ROW_OF = {package: row for row, packages in enumerate(ROWS) for package in packages}
# The public names and the command line may import from every package.
TOP = {"__init__", "__main__"}

# The formats modules that decode images and videos; all others need only NumPy.
IMAGE_FORMATS = {
    f"formats/images/{name}.py"
    for name in ("decode", "opened", "reader", "reduced", "tiff_windows", "window_reader", "windows")
}
VIDEO_FORMATS = {"formats/videos/display.py", "formats/videos/reader.py"}
TYPED_FORMATS = {"formats/custom.py", "formats/dataset.py"}  # import torch for type checkers only
TENSORBOARD_FILES = {"engine/board.py"}

# Only retinanet/cli/ prints. Each exception has a reason.
PRINTS = {
    "benchmarks/confidence.py": "a separate program, run by python -m, that prints its measurements",
    "benchmarks/faults.py": "a separate program, run by python -m, that prints a table",
    "benchmarks/image_grids.py": "a separate program, run by python -m, that prints the folder it has written",
    "benchmarks/tile_merging.py": "a separate program, run by python -m, that prints a table",
    "benchmarks/tiles.py": "a separate program, run by python -m, that prints a table",
    "data/synthetic/__main__.py": "a separate program, run by python -m, that prints the folder it has written",
    "runtime/failure.py": "a failing rank writes to stderr while it exits, possibly before logging is set up",
    "runtime/stop.py": "a signal handler must not wait for a logging lock that the interrupted code may hold",
    "runtime/watchdog.py": "a process whose parent has died writes to stderr immediately before os._exit",
}

MAX_LINES = 300
# A longer file needs a reason that shows it is still about one topic.
LONG_FILES: dict[str, str] = {}


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def package_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(file: Path) -> set[str]:
    """Every module that a file imports, at any level; `from retinanet import x` counts as `retinanet.x`."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import at line {node.lineno}; write it in full"
            if node.module == "retinanet":
                modules |= {f"retinanet.{alias.name}" for alias in node.names if alias.name != "__version__"}
            else:
                modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return modules


def imports_from(file: Path, package: str) -> bool:
    return any(module.partition(".")[0] == package for module in imported_modules(file))


def calls_print(file: Path) -> bool:
    calls = (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_follow_the_order_of_the_packages(file):
    package = package_of(file)
    if package in TOP:
        return
    assert package in ROW_OF, f"{package} has no row yet; add it to ROWS"
    others = {module.split(".")[1] for module in imported_modules(file) if module.startswith("retinanet.")} - {package}
    for other in sorted(others):
        assert other in ROW_OF, f"{name_of(file)}: import {other} from its own module, not from the public names"
        assert ROW_OF[other] < ROW_OF[package], f"{name_of(file)}: {package} must not import {other}"


def test_formats_import_torch_only_to_decode_images():
    formats = [file for file in FILES if package_of(file) == "formats"]
    importing = {name_of(file) for file in formats if imports_from(file, "torch") or imports_from(file, "torchvision")}
    assert importing <= IMAGE_FORMATS | VIDEO_FORMATS | TYPED_FORMATS


def test_export_does_not_import_the_data_pipeline():
    # What a client does around an exported program must come from its metadata alone.
    for file in FILES:
        if package_of(file) == "export":
            assert not any(module.startswith("retinanet.data") for module in imported_modules(file)), name_of(file)


def test_only_the_board_imports_tensorboard():
    def imports_tensorboard(file: Path) -> bool:
        modules = imported_modules(file)
        return any(module.split(".")[0] == "tensorboard" or module == "torch.utils.tensorboard" for module in modules)

    assert {name_of(file) for file in FILES if imports_tensorboard(file)} == TENSORBOARD_FILES


def test_only_the_command_line_prints():
    printing = {name_of(file) for file in FILES if package_of(file) != "cli" and calls_print(file)}
    assert printing - set(PRINTS) == set(), "log instead, or return the text to retinanet/cli/"
    assert set(PRINTS) - printing == set(), "these no longer print; remove them from PRINTS"


def test_no_long_file_without_a_reason():
    lengths = {name_of(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert {name: length for name, length in long.items() if name not in LONG_FILES} == {}
    assert set(LONG_FILES) - set(long) == set(), "these are short enough now; remove them from LONG_FILES"


@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: file.relative_to(REPO).as_posix())
def test_tests_do_not_import_from_test_files(file):
    # Search the text, because tests run programs in strings in other processes.
    text = file.read_text(encoding="utf-8")
    imports = re.findall(r"^\s*(?:from|import)\s+tests\b.*\btest_\w+.*$", text, re.MULTILINE)
    assert imports == [], "move shared code to tests/helpers/"
