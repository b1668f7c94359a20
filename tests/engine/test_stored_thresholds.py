"""Training resumes from a checkpoint with stored thresholds as from any other."""

import shutil

import pytest

from retinanet.checkpoint.file import read_checkpoint
from retinanet.checkpoint.save import store_thresholds
from retinanet.config.load import load_config
from retinanet.engine.train import train
from tests.helpers.documented_commands import interrupt
from tests.helpers.metrics import metrics_without_times
from tests.helpers.states import assert_same_checkpoint


@pytest.mark.usefixtures("restore_process_settings")
def test_resumed_run_is_bit_identical(tiny_overrides, tiny_run, tmp_path):
    straight = tiny_run.folder
    shutil.copytree(straight, tmp_path / "stored", symlinks=True)
    interrupt(tmp_path / "stored")
    checkpoint = tmp_path / "stored" / "checkpoints" / "step_00000004.pt"
    store_thresholds(checkpoint, [0.5] * len(read_checkpoint(checkpoint).class_names))
    resumed = train(load_config("quickstart", tiny_overrides), tmp_path / "stored", resume=True).folder
    assert metrics_without_times(resumed) == metrics_without_times(straight)
    last = read_checkpoint(resumed / "checkpoints" / "last.pt")
    assert last.step == 8 and last.thresholds is None
    assert_same_checkpoint(read_checkpoint(straight / "checkpoints" / "last.pt"), last)
