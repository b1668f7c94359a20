import os

import pytest
import torch

from retinanet.checkpoint.file import DamagedCheckpoint, read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.errors import InputError
from tests.helpers.checkpoints import checkpoint_of, cut_off, filled, flip_a_bit, names, step_files


def test_saved_checkpoint_is_read_back(tmp_path):
    path = CheckpointFolder(tmp_path, keep=2).save(filled(7, 1.5))
    read = read_checkpoint(path)
    assert read.step == 7
    assert torch.equal(read.state["model"]["weight"], torch.full((1000,), 1.5))
    assert path.name == "step_00000007.pt"
    assert (tmp_path / "last.pt").resolve() == path


def test_newest_and_best_checkpoints_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in range(1, 6):
        folder.save(filled(step))
        if step == 2:
            folder.mark_best(2)
    assert names(tmp_path) == ["best.pt", "last.pt", *step_files(2, 4, 5)]
    assert read_checkpoint(tmp_path / "best.pt").step == 2
    assert read_checkpoint(tmp_path / "last.pt").step == 5
    folder.mark_best(5)
    assert names(tmp_path) == ["best.pt", "last.pt", *step_files(4, 5)]


def test_unrelated_files_are_left_alone(tmp_path):
    others = ["step_best_one.pt", "step_1.pt", "step_00000001.pt.damaged", "notes.partial", "model.pt.partial", "x.pt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.open_for_writing()
    for step in (1, 2, 100_000_000, 99_999_999):
        folder.save(filled(step))
    assert names(tmp_path) == sorted([*others, "last.pt", *step_files(100_000_000)])
    assert folder.last_intact()[0].name == "step_100000000.pt"
    assert all((tmp_path / name).read_text() == "mine" for name in others)


def test_opening_removes_partial_files(tmp_path):
    folder = CheckpointFolder(tmp_path / "new" / "checkpoints", keep=1)
    folder.open_for_writing()
    folder.save(filled(1))
    before = names(folder.folder)
    for name in ("step_00000002.pt.partial", "step_00000002.pt.sha256.partial", "best.pt.partial"):
        (folder.folder / name).write_text("half")
    (folder.folder / "last.pt.partial").symlink_to("step_00000002.pt")
    CheckpointFolder(folder.folder, keep=1).last_intact()  # reading does not remove them
    assert len(names(folder.folder)) == len(before) + 4
    folder.open_for_writing()
    assert names(folder.folder) == before


def test_opening_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/checkpoints: cannot be written to: "):
        CheckpointFolder(tmp_path / "file" / "checkpoints", keep=1).open_for_writing()


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(filled(1))
    folder.save(filled(1, 2.0))
    assert names(tmp_path) == ["last.pt", *step_files(1)]
    assert read_checkpoint(tmp_path / "last.pt").state["model"]["weight"][0] == 2.0


def test_checksum_without_its_checkpoint_is_removed(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    (tmp_path / "step_00000003.pt.sha256").write_text("left by a run killed between the two removals")
    folder.save(filled(4))
    assert names(tmp_path) == ["last.pt", *step_files(4)]


def test_checkpoint_that_cannot_be_read_back_leaves_no_file(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(filled(1))
    with pytest.raises(TypeError, match=r"step_00000002.*Path"):
        folder.save(checkpoint_of(2, output=tmp_path))
    assert names(tmp_path) == ["last.pt", *step_files(1)]


# ---- last intact checkpoint


def test_empty_or_missing_folder_has_no_checkpoint(tmp_path):
    assert CheckpointFolder(tmp_path, keep=1).last_intact() == (None, None)
    assert CheckpointFolder(tmp_path / "none", keep=1).last_intact() == (None, None)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off])
def test_damaged_newest_checkpoint_is_renamed_and_the_previous_one_used(tmp_path, damage, caplog):
    folder = CheckpointFolder(tmp_path, keep=3)
    for step in (1, 2, 3):
        folder.save(filled(step))
    folder.mark_best(3)
    damage(tmp_path / "step_00000003.pt")
    damaged = (tmp_path / "step_00000003.pt").read_bytes()

    path, read = folder.last_intact()

    assert (path.name, read.step) == ("step_00000002.pt", 2)
    renamed = ["step_00000003.pt.damaged", "step_00000003.pt.damaged.sha256"]
    assert names(tmp_path) == sorted(["last.pt", *step_files(1, 2), *renamed])  # best.pt was removed with its target
    assert (tmp_path / renamed[0]).read_bytes() == damaged
    assert os.readlink(tmp_path / "last.pt") == "step_00000002.pt"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "step_00000003.pt: damaged: checksum differs from step_00000003.pt.sha256" in caplog.text
    assert "renamed to step_00000003.pt.damaged; resuming from step_00000002.pt" in caplog.text
    assert "best.pt: removed: its target step_00000003.pt no longer exists" in caplog.text
    with pytest.raises(DamagedCheckpoint, match="checksum differs"):
        read_checkpoint(tmp_path / renamed[0])

    # The run writes step 3 again, and the new file is damaged as well: both are kept.
    folder.save(filled(3, 3.5))
    damage(tmp_path / "step_00000003.pt")
    assert folder.last_intact()[0].name == "step_00000002.pt"
    again = ["step_00000003.pt.damaged.2", "step_00000003.pt.damaged.2.sha256"]
    assert names(tmp_path) == sorted(["last.pt", *step_files(1, 2), *renamed, *again])
    assert (tmp_path / renamed[0]).read_bytes() == damaged
    # Damaged files do not count towards `keep` and are never removed.
    for step in (4, 5, 6):
        folder.save(filled(step))
    assert names(tmp_path) == sorted(["last.pt", *step_files(4, 5, 6), *renamed, *again])


def test_all_newer_damaged_checkpoints_are_renamed_and_an_intact_best_is_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=4)
    for step in (1, 2, 3, 4):
        folder.save(filled(step))
    folder.mark_best(1)
    cut_off(tmp_path / "step_00000004.pt")
    flip_a_bit(tmp_path / "step_00000003.pt.sha256")
    assert folder.last_intact()[0].name == "step_00000002.pt"
    assert [path.name for path in folder.files()] == ["step_00000001.pt", "step_00000002.pt"]
    assert read_checkpoint(tmp_path / "best.pt").step == 1


def test_damaged_older_checkpoint_is_left_alone(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(filled(1))
    folder.save(filled(2))
    cut_off(tmp_path / "step_00000001.pt")
    before = names(tmp_path)
    assert folder.last_intact()[0].name == "step_00000002.pt"
    assert names(tmp_path) == before


def test_nothing_is_renamed_if_no_checkpoint_is_intact(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2):
        folder.save(filled(step))
        cut_off(tmp_path / f"step_{step:08d}.pt")
    before = names(tmp_path)
    for _ in range(2):  # training never silently starts from scratch
        with pytest.raises(InputError, match=r"no intact checkpoint; damaged: step_00000001\.pt, step_00000002\.pt; "):
            folder.last_intact()
    assert names(tmp_path) == before


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off])
def test_newest_checkpoint_without_a_checksum_file_is_verified_by_its_archive(tmp_path, damage):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(filled(1))
    path = folder.save(filled(2))
    path.with_name(f"{path.name}.sha256").unlink()
    assert folder.last_intact()[0] == path
    damage(path)
    assert folder.last_intact()[0].name == "step_00000001.pt"
    assert names(tmp_path) == sorted(["last.pt", *step_files(1), "step_00000002.pt.damaged"])


def test_newest_file_that_is_not_a_checkpoint_is_refused_and_not_renamed(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(filled(1))
    torch.save({"model": {}}, tmp_path / "step_00000002.pt")
    before = names(tmp_path)
    with pytest.raises(InputError, match="not a 'retinanet checkpoint 4'"):
        folder.last_intact()
    assert names(tmp_path) == before
