import json
from dataclasses import replace
from pathlib import Path

import pytest

from retinanet.config.load import load_config
from retinanet.data.fingerprint import fingerprint
from retinanet.engine.run_folder import MARKER, UNREADABLE_FILE, check_same_run, is_of_this_launch
from retinanet.errors import InputError
from tests.helpers.checkpoints import checkpoint_of
from tests.helpers.datasets import dataset_of, image_record

DATA = dataset_of([image_record(f"{number}.png", image_id=number) for number in (1, 2, 3)], class_names=("cat", "dog"))
PATH = Path("last.pt")


@pytest.fixture
def launched(monkeypatch):
    """Make this process look like a worker of torchrun."""

    def start(run_id: str) -> str:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        monkeypatch.setattr("retinanet.runtime.distributed.os.getppid", lambda: 4321)
        return f"{run_id} 4321"

    return start


def test_run_belongs_to_the_launch_in_its_environment_record(tmp_path, launched):
    launch = launched("abc")
    assert not is_of_this_launch(tmp_path)  # holds no run
    (tmp_path / MARKER).write_text(json.dumps({"launch": launch}))
    assert is_of_this_launch(tmp_path)
    launched("another")
    assert not is_of_this_launch(tmp_path)


@pytest.mark.parametrize("content", ['{"launch": nu', "{}", '{"launch": null}'])
def test_run_without_a_valid_launch_id_is_not_of_this_launch(tmp_path, launched, content):
    launched("abc")
    (tmp_path / MARKER).write_text(content)
    assert not is_of_this_launch(tmp_path)


def test_no_run_is_of_this_launch_without_torchrun(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / MARKER).write_text('{"launch": null}')
    assert not is_of_this_launch(tmp_path)


def checkpoint_with(cfg):
    return checkpoint_of(images=fingerprint(DATA))._replace(config=cfg)


def test_classes_must_be_the_same(tmp_path):
    cfg = load_config("quickstart")
    assert check_same_run(PATH, checkpoint_with(cfg), cfg, DATA, folder=tmp_path) is None
    with pytest.raises(
        InputError, match=r"last\.pt: was trained on classes \['cat', 'dog'\], data.train has \['dog'\]"
    ):
        check_same_run(PATH, checkpoint_with(cfg), cfg, replace(DATA, class_names=("dog",)), folder=tmp_path)


def test_images_may_be_removed_once_the_run_recorded_unreadable_ones(tmp_path):
    cfg, fewer = load_config("quickstart"), DATA.subset([0, 2])
    with pytest.raises(InputError, match=r"last\.pt: was trained on 3 images, data\.train has 2: 1 are missing"):
        check_same_run(PATH, checkpoint_with(cfg), cfg, fewer, folder=tmp_path)
    (tmp_path / UNREADABLE_FILE).write_text(json.dumps({"path": DATA.paths[1]}) + "\n")
    changed = check_same_run(PATH, checkpoint_with(cfg), cfg, fewer, folder=tmp_path)
    assert "lacks 1 of the 3 images it had, 1 of them recorded as unreadable" in changed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("assignment.type=atss", r"different assignment\.anchors_per_level: it was None, now 9"),
        ("assignment.fg_iou=0.6", r"different assignment\.fg_iou: it was 0\.5, now 0\.6"),
        ("loss.classification.gamma=1.0", r"different loss\.classification\.gamma: it was 2\.0, now 1\.0"),
        ("train.seed=5", r"different train\.seed: it was 0, now 5"),
    ],
)
def test_resuming_with_a_changed_key_is_refused(tmp_path, override, message):
    checkpoint = checkpoint_with(load_config("quickstart"))
    check_same_run(
        PATH, checkpoint, load_config("quickstart", ["postprocess.min_score=0.5", "device=cpu"]), DATA, folder=tmp_path
    )
    with pytest.raises(InputError, match=message):
        check_same_run(PATH, checkpoint, load_config("quickstart", [override]), DATA, folder=tmp_path)
