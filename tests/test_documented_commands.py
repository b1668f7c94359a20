"""Run the commands in README and docs page by page, in order, with short runs and small networks.

A block that cannot be run is preceded by the comment `<!-- not run: the reason -->`.
"""

import shlex
from pathlib import Path

import pytest

from tests.helpers.documented_commands import (
    copy_workplace,
    files_read,
    files_written,
    interrupt,
    run_command,
    short_form,
)
from tests.helpers.markdown import PAGES_WITH_BLOCKS, blocks_in, commands_in, named_yaml

BLOCKS = [block for page in PAGES_WITH_BLOCKS for block in blocks_in(page) if block.language == "bash" and block.is_run]
PAGES = list(dict.fromkeys(block.page for block in BLOCKS))


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_is_run_or_has_a_reason(block):
    for words in commands_in(block.text):
        assert short_form(words)[: len(words)] == words


@pytest.mark.parametrize(
    "command",
    [
        "pip install retinanet",
        "bash scripts/quickstart.sh",
        "tensorboard --logdir runs",
        "retinanet ablate 2 --data coco",
        "retinanet train --replay runs/a/nonfinite_step_00000001.pt",
        "torchrun --nproc_per_node=2 -m retinanet benchmark all",
    ],
)
def test_command_without_a_short_form_is_detected(command):
    with pytest.raises(AssertionError, match="no short form"):
        short_form(shlex.split(command))


def test_short_form_keeps_the_keys_that_a_command_sets():
    words = shlex.split("torchrun --nproc_per_node=2 -m retinanet train quickstart model.backbone.norm=sync")
    short = short_form(words)
    assert "train.steps=2" in short
    assert [word for word in short if word.startswith("model.backbone.norm")] == ["model.backbone.norm=sync"]


def test_command_with_the_config_of_a_run_or_checkpoint_is_not_changed():
    for command in ("retinanet train --resume runs/a", "retinanet eval runs/a/checkpoints/best.pt"):
        assert short_form(shlex.split(command)) == shlex.split(command)


def test_files_that_a_command_reads_and_writes():
    words = shlex.split("retinanet train my.yaml --output runs/a train.init_from=runs/b/best.pt data.val.images=my/val")
    assert list(files_read(words)) == [Path("runs/b/best.pt"), Path("my/val")]
    assert files_written(words) == [Path("runs/a")]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_run_in_order(page, workplace, tmp_path, monkeypatch, restore_process_settings):
    copy_workplace(workplace, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, text in named_yaml(page).items():
        Path(name).write_text(text, encoding="utf-8")
    for words in [words for block in BLOCKS if block.page == page for words in commands_in(block.text)]:
        command = shlex.join(words)
        missing = [str(path) for path in files_read(words) if words[0] != "source" and not path.exists()]
        assert not missing, f"{command}: {missing} do not exist and no earlier command writes them"
        resumed = [path for path in map(Path, words) if (path / "checkpoints").is_dir()] if "--resume" in words else []
        removed = [interrupt(run) for run in resumed]
        assert ("--resume" in words) == bool(removed), f"{command}: there is no run to resume"
        run_command(words)
        for path in files_written(words):
            assert path.is_file() or any(path.iterdir()), f"{command} wrote nothing to {path}"
        for checkpoint in removed:
            assert checkpoint.is_file(), f"{command} did not resume the run"
