import pytest
import torch

from retinanet.checkpoint.file import read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.engine.recorder import open_recorder
from retinanet.errors import InputError
from retinanet.structures import Unreadable
from tests.helpers.checkpoints import checkpoint_of
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.metrics import read_metrics

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
