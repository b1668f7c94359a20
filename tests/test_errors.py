"""Checks of output folders."""

from retinanet.errors import make_folder


def test_make_folder_creates_parents_and_leaves_no_file(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir() and list((tmp_path / "a" / "b").iterdir()) == []
