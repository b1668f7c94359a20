"""Thresholds in checkpoints, and rewriting a checkpoint to store them."""

import os

import pytest
import torch

from retinanet.checkpoint.file import DamagedCheckpoint, file_checksum, read_checkpoint, write_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.save import store_thresholds
from retinanet.checkpoint.saved import checksum_file
from retinanet.errors import InputError
from tests.helpers.checkpoints import checkpoint_of, filled, flip_a_bit, forbid_symlinks, names, step_files


@pytest.fixture(params=[True, False], ids=["symbolic links", "no symbolic links"])
def folder(request, tmp_path, monkeypatch):
    """Checkpoints of steps 1 to 3, of which the first is the best."""
    if not request.param:
        forbid_symlinks(monkeypatch)
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2, 3):
        folder.save(filled(step))
        if step == 1:
            folder.mark_best(1)
    return folder


def test_thresholds_are_stored_and_nothing_else_changes(folder):
    before = {path.name: path.read_bytes() for path in folder.folder.iterdir()}
    file = store_thresholds(folder.folder / "best.pt", [0.25, None])
    assert file == folder.path_of(1)
    stored = read_checkpoint(folder.folder / "best.pt")
    assert stored.thresholds == (0.25, None)
    assert stored.step == 1 and stored.class_names == ("cat", "dog") and stored.category_ids == (3, 7)
    assert torch.equal(stored.state["model"]["weight"], torch.full((1000,), 1.0))
    assert checksum_file(file).read_text() == f"{file_checksum(file)}  {file.name}\n"
    after = {path.name: path.read_bytes() for path in folder.folder.iterdir()}
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed - {"best.pt"} == set(step_files(1))  # a symbolic link shows its new target
    assert read_checkpoint(folder.folder / "last.pt").thresholds is None


def test_thresholds_can_be_replaced(folder):
    store_thresholds(folder.folder / "last.pt", [0.25, 0.5])
    store_thresholds(folder.folder / "last.pt", [0.75, None])
    assert read_checkpoint(folder.path_of(3)).thresholds == (0.75, None)


def test_checkpoint_without_the_field_has_no_thresholds(tmp_path):
    """As written before thresholds could be stored."""
    write_checkpoint(tmp_path / "a.pt", checkpoint_of(1))
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    del content["thresholds"]
    torch.save(content, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").thresholds is None


def test_checkpoint_that_was_copied_elsewhere_gets_a_checksum(tmp_path):
    write_checkpoint(tmp_path / "copied.pt", checkpoint_of(1))
    store_thresholds(tmp_path / "copied.pt", [0.5, 0.5])
    assert names(tmp_path) == ["copied.pt", "copied.pt.sha256"]
    assert read_checkpoint(tmp_path / "copied.pt").thresholds == (0.5, 0.5)


def test_damaged_checkpoint_is_refused_and_left_as_it_is(folder):
    flip_a_bit(folder.path_of(1))
    before = folder.path_of(1).read_bytes()
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        store_thresholds(folder.path_of(1), [0.5, 0.5])
    assert folder.path_of(1).read_bytes() == before


def test_wrong_number_of_classes_is_refused(folder):
    with pytest.raises(InputError, match="has 2 classes, found 3 thresholds"):
        store_thresholds(folder.path_of(1), [0.5, 0.5, 0.5])


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_checkpoint_stays_intact_if_writing_fails(folder, monkeypatch, fails):
    before = names(folder.folder)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, full)
        with pytest.raises(InputError, match="cannot be stored: No space left on device; the checkpoint is intact"):
            store_thresholds(folder.path_of(1), [0.5, 0.5])
    assert read_checkpoint(folder.path_of(1)).thresholds is None
    assert set(before) - set(names(folder.folder)) <= {"step_00000001.pt.sha256"}
    assert not list(folder.folder.glob("*.partial"))


def test_training_continues_in_the_folder_and_its_checkpoints_have_no_thresholds(folder):
    store_thresholds(folder.folder / "last.pt", [0.25, 0.5])
    assert folder.last_intact()[0] == folder.path_of(3)
    folder.save(filled(4))
    assert read_checkpoint(folder.path_of(4)).thresholds is None
    assert names(folder.folder) == ["best.pt", "last.pt", *step_files(1, 3, 4)]
