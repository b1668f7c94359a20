import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from retinanet.checkpoint.file import read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.config import Config
from retinanet.data.build import load_train_data
from retinanet.data.reader import SampleReader
from retinanet.engine.board import Board
from retinanet.engine.recorder import Recorder, open_recorder
from retinanet.errors import InputError
from retinanet.structures import Unreadable
from tests.helpers.checkpoints import checkpoint_of
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.metrics import read_metrics
from tests.helpers.tiny_runs import record_of_run, write_tiny_dataset

DATA = dataset_of([image_record(f"{name}.jpg", image_id=number) for number, name in enumerate("abc", 1)])


def record_everything(folder, *, max_unreadable=1):
    with open_recorder(
        folder, CheckpointFolder(folder / "checkpoints", keep=2), resumed_at=None, max_unreadable=max_unreadable
    ) as recorder:
        recorder.write_train_metrics(3, {"loss": 0.5})
        recorder.save(checkpoint_of(3, weight=torch.ones(2)))
        recorder.mark_best(3)
        recorder.record_unreadable([(3, Unreadable(0, 0, 2, "a.jpg: cannot be read"))], DATA)


def test_main_process_writes_metrics_checkpoints_and_unreadable_images(tmp_path):
    record_everything(tmp_path)
    assert read_metrics(tmp_path) == [{"kind": "train", "step": 3, "loss": 0.5}]
    assert read_checkpoint(tmp_path / "checkpoints/best.pt").step == 3  # complete once the recorder is closed
    assert '"path": "a.jpg"' in (tmp_path / "unreadable.jsonl").read_text()


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("retinanet.engine.recorder.is_main", lambda: False)
    record_everything(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pending_checkpoint_is_written_when_the_loop_fails(tmp_path):
    with pytest.raises(InputError, match=r"data\.max_unreadable"):
        record_everything(tmp_path, max_unreadable=0)
    assert read_checkpoint(tmp_path / "checkpoints/last.pt").step == 3
    assert len(read_metrics(tmp_path)) == 1


@pytest.fixture(scope="module")
def tiny_config(tmp_path_factory):
    """A run of six steps with random transforms and two evaluations, whose loader runs in the main process."""
    folder = tmp_path_factory.mktemp("tiny")
    values = {
        "data": {
            "train": [write_tiny_dataset(folder / "train")],
            "val": [write_tiny_dataset(folder / "val", seed=1)],
            "resize": {"shorter": 32, "longer": 48},
            "transforms": [{"type": "mosaic"}, {"type": "scale_jitter"}, {"type": "flip"}],
            "workers": 0,
        },
        "model": {"channels": 8, "head_convs": 1, "backbone": {"weights": "none", "frozen_stages": 0, "norm": "batch"}},
        "train": {"steps": 6, "batch_size": 2, "log_every": 1, "eval_every": 3, "precision": "fp32"},
        "device": "cpu",
    }
    return Config.model_validate_json(json.dumps(values))


def test_what_a_run_shows_does_not_change_what_it_computes(tiny_config, tmp_path, monkeypatch):
    shown = record_of_run(tiny_config, tmp_path / "shown")
    monkeypatch.setattr(Recorder, "write_start", lambda *arguments: None)
    monkeypatch.setattr(Board, "validation_images", lambda *arguments: None)
    monkeypatch.setattr(Board, "precision_recall", lambda *arguments: None)
    hidden = record_of_run(tiny_config, tmp_path / "hidden")
    assert shown["metrics"] == hidden["metrics"] and len(shown["metrics"]) == 8
    for averaged in (0, 1):
        assert shown["weights"][averaged].keys() == hidden["weights"][averaged].keys()
        for name, weight in shown["weights"][averaged].items():
            assert torch.equal(weight, hidden["weights"][averaged][name]), name
    tags = {name: tags_in(tmp_path / name / "tensorboard") for name in ("shown", "hidden")}
    assert {f"training/{number}" for number in range(8)} <= tags["shown"] and tags["hidden"] == set()


def tags_in(folder) -> set[str]:
    board = EventAccumulator(str(folder))
    board.Reload()
    return set(board.Tags()["images"])


def test_training_images_that_cannot_be_read_are_left_to_training(tiny_config, tmp_path, monkeypatch):
    data = load_train_data(tiny_config)
    monkeypatch.setattr(SampleReader, "read", lambda *arguments: (_ for _ in ()).throw(InputError("unreadable")))
    checkpoints = CheckpointFolder(tmp_path / "checkpoints", keep=2)
    with open_recorder(tmp_path, checkpoints, resumed_at=None, max_unreadable=1) as recorder:
        recorder.write_start(tiny_config, data)
    assert tags_in(tmp_path / "tensorboard") == set()
