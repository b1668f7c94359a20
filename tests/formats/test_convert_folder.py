"""The folder that `convert` writes: complete or absent, and no other folder replaced."""

import errno
from pathlib import Path

import pytest

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.convert import check_output, new_folder


def test_new_folder_appears_at_the_end(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as partial:
        (partial / "x").write_text("1")
        assert not any((tmp_path / "out").iterdir())
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "x"]


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "new" / "out") as partial:
        (partial / "x").write_text("1")
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]


def test_existing_folder_is_replaced_as_a_whole_only_at_the_end(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("0")
    with new_folder(tmp_path / "out", replace=True) as partial:
        (partial / "new").write_text("1")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_existing_folder_stays_if_the_new_one_is_not_finished(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("0")
    with pytest.raises(KeyError), new_folder(tmp_path / "out", replace=True):
        raise KeyError
    rename = Path.rename

    def failing(path, target):
        if path.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InputError, match="out: cannot be written: Input/output error"):
        with new_folder(tmp_path / "out", replace=True):
            pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_non_empty_folders_and_sources_are_refused(tmp_path):
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    source = DataSource(annotations=str(tmp_path / "file"), images=str(tmp_path / "data" / "images"))
    for name, message in (
        ("data", "exists and is not an empty folder"),
        ("file", "exists and is not an empty folder"),
        ("dangling", "exists and is not an empty folder"),
        ("data/images/new", "is inside .*, which must not be modified"),
        ("data/images", "is inside .*, which must not be modified"),
    ):
        with pytest.raises(InputError, match=message):
            check_output(tmp_path / name, (source,))
    assert (tmp_path / "file").read_text() == ""
