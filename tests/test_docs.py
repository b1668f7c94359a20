"""Check README and docs: commands parse, Python code runs, and config keys and links exist.

A Python block that cannot be run is preceded by the comment `<!-- not run: the reason -->`.
tests/test_documented_commands.py runs the commands.
"""

import ast
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser as torchrun_parser

from retinanet.ablation.table import load_table, make_jobs
from retinanet.cli import ablate, benchmark, browse, check, convert, export, own_data, predict, publish, report, train
from retinanet.cli import eval as eval_command
from retinanet.config import Config
from retinanet.config.load import load_config
from tests.helpers.config_keys import schema_keys
from tests.helpers.documented_commands import copy_workplace
from tests.helpers.markdown import PAGES_WITH_BLOCKS, REPO, Block, blocks_in, commands_in, named_yaml

PAGES = [*PAGES_WITH_BLOCKS, REPO / "docs" / "extending.md"]
LINKING_PAGES = [*PAGES, REPO / "CHANGELOG.md", REPO / "benchmarks" / "README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE_CODE = re.compile(r"`([^`\n]+)`")
CONFIG_KEY = re.compile(r"^((?:data|model|assignment|loss|postprocess|inference|train)\.[a-z0-9_.]*[a-z0-9_])(?:=.*)?$")
OTHER_PROGRAMS = {"hf", "pip", "tensorboard"}
BLOCKS = [block for page in PAGES_WITH_BLOCKS for block in blocks_in(page)]


def blocks_of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def check_command(words: list[str]) -> None:
    match words:
        case ["retinanet", name, *arguments] | ["python", "-m", "retinanet", name, *arguments]:
            check_retinanet(name, arguments)
        case ["torchrun", *arguments]:
            parsed = torchrun_parser().parse_args(arguments)
            assert parsed.module and parsed.training_script == "retinanet", words
            check_command(["retinanet", *parsed.training_script_args])
        case ["sbatch", *options, "scripts/slurm_train.sh", _, config] if all(
            word.startswith("--") for word in options
        ):
            load_config(config)
        case ["bash" | "source", script, *_] if script.startswith("scripts/"):
            assert (REPO / script).is_file(), f"{script} does not exist"
        case ["source", ".venv/bin/activate"]:  # created by scripts/environment.sh
            pass
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), f"no module {module}"
        case [program, *_]:
            assert program in OTHER_PROGRAMS, f"this test cannot check {shlex.join(words)}"


def check_retinanet(name: str, arguments: list[str]) -> None:
    match name, arguments:
        case "train", _:
            parsed = train.parser().parse(arguments)
            # A run to resume and a recorded step have their own configs.
            assert parsed.config or parsed.data or parsed.resume or parsed.replay
            load_config(parsed.config or "quickstart", parsed.overrides)
        case "eval", _:
            parsed = eval_command.parser().parse(arguments)
            load_config("quickstart", parsed.overrides)
        case "check", _:
            load_config("quickstart", check.parser().parse(arguments).overrides)
        case "report", _:
            report.parser().parse(arguments)
        case "browse", _:
            browse.parser().parse(arguments)
        case "convert", _:
            own_data.config_of("my", convert.parser().parse(arguments).overrides)
        case "publish", _:
            publish.parser().parse(arguments)
        case "export", _:
            load_config("quickstart", export.parsed(arguments).overrides)
        case "predict", _:
            load_config("quickstart", predict.parser().parse(arguments).overrides)
        case "ablate", ["figures", *rest]:
            parsed = ablate.figures_parser().parse(rest)
            load_config("quickstart", parsed.overrides)
        case "ablate", ["demo", *rest]:
            ablate.demo_parser().parse(rest)
        case "ablate", _:
            parsed = ablate.table_parser().parse(arguments)
            table = load_table(parsed.table)
            make_jobs(table, parsed.data, num_seeds=parsed.seeds, rows=parsed.rows, overrides=parsed.overrides)
        case "benchmark", _:
            benchmark.select_suites(benchmark.parser().parse(arguments).suites)
        case _:
            raise AssertionError(f"no command {name}")


@pytest.mark.parametrize("block", blocks_of("bash"), ids=str)
def test_every_shell_command_parses_and_its_config_loads(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in named_yaml(block.page).items():
        Path(name).write_text(text, encoding="utf-8")
    commands = commands_in(block.text)
    assert commands
    for words in commands:
        check_command(words)


@pytest.mark.parametrize(
    "command",
    [
        "retinanet train quickstart train.epoch=3",
        "retinanet train quickstart --outptu runs/a",
        "retinanet trian quickstart",
        "retinanet train train.seed=3",
        "retinanet train --resume runs/a train.epoch=3",
        "retinanet ablate 1z --data quickstart",
        "torchrun --nproc_per_node=2 -m retinanet train quickstart train.epoch=3",
        "bash scripts/missing.sh",
        "python -m retinanet.missing",
        "unknown --option",
    ],
)
def test_invalid_command_is_detected(command):
    with pytest.raises((Exception, SystemExit)):
        check_command(shlex.split(command))


@pytest.mark.parametrize("block", blocks_of("python"), ids=str)
def test_python_compiles_and_its_imports_of_this_package_resolve(block):
    tree = ast.parse(block.text, str(block))
    if "from sahi" in block.text:
        pytest.importorskip("sahi", reason="SAHI, which our module for it needs, is optional")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "retinanet":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in blocks_of("python") if block.is_run], ids=str)
def test_python_runs_as_written(block, workplace, tmp_path, monkeypatch):
    copy_workplace(workplace, tmp_path)  # each block starts without the files of other blocks
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block), "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("block", blocks_of("yaml"), ids=str)
def test_yaml_configs_load(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("shown.yaml").write_text(block.text, encoding="utf-8")
    load_config("shown.yaml")


def test_blocks_have_a_language_that_is_checked():
    # Blocks without a language are text, such as a diagram.
    assert {block.language for block in BLOCKS} <= {"bash", "python", "yaml", ""}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_config_keys_in_the_text_exist(page):
    known = schema_keys(Config)
    assert "model.backbone.name" in known and "loss.classification.gamma" in known
    named = [
        found[1] for code in INLINE_CODE.findall(page.read_text(encoding="utf-8")) if (found := CONFIG_KEY.match(code))
    ]
    files = (".json", ".csv", ".yaml", ".safetensors")  # `train.json` is not a key
    assert [key for key in named if key not in known and not key.endswith(files)] == []


def headings(page: Path) -> set[str]:
    """Anchors that GitHub generates from the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKING_PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_relative_links_and_images_exist(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: {target} does not exist"
        assert not anchor or anchor in headings(file), f"{page.name}: {target} has no such heading"


def test_readme_is_short():
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
