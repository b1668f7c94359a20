"""The links last.pt and best.pt, with and without symbolic links."""

import os
import shutil

import pytest

from retinanet.checkpoint.file import read_checkpoint, resolve_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.link import MAX_SIZE, read_link, write_link
from retinanet.errors import InputError
from tests.helpers.checkpoints import cut_off, filled, forbid_symlinks, names, step_files


@pytest.fixture(params=["symbolic links", "no symbolic links"])
def has_symlinks(request, monkeypatch):
    if request.param != "symbolic links":
        forbid_symlinks(monkeypatch)
    return request.param == "symbolic links"


def test_link_can_be_read_and_replaced(tmp_path, has_symlinks):
    link, partial = tmp_path / "last.pt", tmp_path / "last.pt.partial"
    partial.write_text("left by a killed run")
    for target in ("step_00000001.pt", "step_123456789.pt"):
        write_link(link, target, partial=partial)
        assert read_link(link) == target
        assert link.is_symlink() == has_symlinks and not partial.exists()


def test_other_files_are_not_links(tmp_path):
    for name, content in {
        "empty": b"",
        "text": b"step_00000001.pt\n",
        "large": b"retinanet link to " * MAX_SIZE,
    }.items():
        (tmp_path / name).write_bytes(content)
        assert read_link(tmp_path / name) is None
    assert read_link(tmp_path / "missing") is None and read_link(tmp_path) is None


def test_best_and_last_point_to_their_checkpoints_and_old_ones_are_removed(tmp_path, has_symlinks, caplog):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in range(1, 6):
        folder.save(filled(step))
        if step in (1, 2):
            folder.mark_best(step)
    assert names(tmp_path) == ["best.pt", "last.pt", *step_files(2, 4, 5)]
    assert read_checkpoint(tmp_path / "best.pt").step == 2
    assert read_checkpoint(str(tmp_path / "last.pt")).step == 5
    assert folder.last_intact()[0].name == "step_00000005.pt"
    assert not caplog.records


def test_links_to_a_damaged_checkpoint_are_repaired(tmp_path, has_symlinks):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(filled(1))
    folder.save(filled(2))
    folder.mark_best(2)
    cut_off(tmp_path / "step_00000002.pt")
    assert folder.last_intact()[0].name == "step_00000001.pt"
    assert read_checkpoint(tmp_path / "last.pt").step == 1
    assert folder.best() is None and "best.pt" not in names(tmp_path)


def test_symbolic_link_in_another_folder_is_followed(tmp_path, monkeypatch):
    """The target may be a checkpoint, or a text file that points to one."""
    folder = CheckpointFolder(tmp_path / "run", keep=2)
    folder.save(filled(1))
    os.symlink(tmp_path / "run/step_00000001.pt", tmp_path / "mine.pt")
    assert read_checkpoint(tmp_path / "mine.pt").step == 1
    with monkeypatch.context() as patch:
        forbid_symlinks(patch)
        folder.save(filled(2))
    os.symlink(tmp_path / "run/last.pt", tmp_path / "newest.pt")
    assert read_checkpoint(tmp_path / "newest.pt").step == 2
    assert resolve_checkpoint(tmp_path / "newest.pt") == (tmp_path / "run/step_00000002.pt").resolve()


def test_copied_text_file_without_its_checkpoint_names_the_missing_file(tmp_path, monkeypatch):
    forbid_symlinks(monkeypatch)
    CheckpointFolder(tmp_path / "run", keep=1).save(filled(7))
    shutil.copy(tmp_path / "run/last.pt", tmp_path / "copy.pt")
    with pytest.raises(InputError, match=r"copy\.pt: points to step_00000007\.pt, which is not in the same folder"):
        read_checkpoint(tmp_path / "copy.pt")


def test_run_can_move_between_file_systems_with_and_without_symbolic_links(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(filled(1))
    folder.mark_best(1)
    with monkeypatch.context() as patch:
        forbid_symlinks(patch)
        folder.save(filled(2))
        assert names(tmp_path) == ["best.pt", "last.pt", *step_files(1, 2)]
        folder.mark_best(2)
    folder.save(filled(3))
    assert (tmp_path / "last.pt").is_symlink() and not (tmp_path / "best.pt").is_symlink()
    assert names(tmp_path) == ["best.pt", "last.pt", *step_files(2, 3)]
    assert [read_checkpoint(tmp_path / name).step for name in ("best.pt", "last.pt")] == [2, 3]


def test_folder_copied_with_links_resolved_is_usable(tmp_path):
    """In a download from Google Drive, for example, best.pt and last.pt are copies of checkpoints."""
    original = CheckpointFolder(tmp_path / "run", keep=1)
    original.save(filled(1))
    original.mark_best(1)
    original.save(filled(2))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    folder = CheckpointFolder(tmp_path / "copy", keep=1)
    assert not (folder.folder / "best.pt").is_symlink()
    assert folder.last_intact()[1].step == 2 and read_checkpoint(folder.folder / "best.pt").step == 1
    folder.save(filled(3))
    assert [read_checkpoint(folder.folder / name).step for name in ("best.pt", "last.pt")] == [1, 3]
    folder.mark_best(3)
    assert read_checkpoint(folder.folder / "best.pt").step == 3
