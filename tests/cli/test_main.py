"""The entry point: command selection, --help, --version."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from retinanet import __version__
from retinanet.__main__ import main
from retinanet.cli.commands import COMMANDS

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake_train(monkeypatch):
    """A stub for retinanet.cli.train that records its arguments and returns 7."""
    calls = []
    module = types.ModuleType("retinanet.cli.train")
    module.main = lambda argv=None: calls.append(argv) or 7
    monkeypatch.setitem(sys.modules, "retinanet.cli.train", module)
    return calls


def test_arguments_and_exit_code_are_passed_on(fake_train):
    assert main(["train", "a.yaml", "--output", "runs/a", "optimizer.lr=0.1"]) == 7
    assert fake_train == [["a.yaml", "--output", "runs/a", "optimizer.lr=0.1"]]


def test_options_after_the_command_are_passed_to_it(fake_train):
    main(["train", "--help"])
    main(["train", "--version"])
    assert fake_train == [["--help"], ["--version"]]


def test_arguments_default_to_the_command_line(fake_train, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["retinanet", "train", "a.yaml"])
    main()
    assert fake_train == [["a.yaml"]]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian", "a.yaml"], "retinanet: no command 'trian'; did you mean 'train'?\n"),
        (["evaluate"], "retinanet: no command 'evaluate'; did you mean 'eval'?\n"),
        (["xyzzy"], f"retinanet: no command 'xyzzy'; the commands are {', '.join(COMMANDS)}\n"),
        (["tools.train"], None),
        (["--verbose"], None),
        ([], None),
    ],
)
def test_invalid_arguments_give_one_line_and_exit_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("retinanet: ") and printed.err.count("\n") == 1
    if message is not None:
        assert printed.err == message


def test_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("  ")][: len(COMMANDS)] == list(
        COMMANDS
    )
    assert all(purpose in printed for purpose in COMMANDS.values())


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"retinanet {__version__}\n"


def test_every_command_has_a_module_and_a_script():
    assert sorted(COMMANDS) == sorted(path.stem for path in (REPO / "tools").glob("*.py"))
    assert all((REPO / "retinanet" / "cli" / f"{command}.py").is_file() for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_script_runs_its_command(command):
    code = (REPO / "tools" / f"{command}.py").read_text(encoding="utf-8")
    assert code == (
        f'import sys\n\nfrom retinanet.__main__ import main\n\nsys.exit(main(["{command}", *sys.argv[1:]]))\n'
    )


def test_entry_point_does_not_import_torch():
    code = "import sys, retinanet.__main__, retinanet.cli.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0
