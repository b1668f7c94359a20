import os

import numpy as np
import pytest

from retinanet.errors import InputError
from retinanet.formats.writing import image_names, replace_file, rows_of_files, write_new_files
from tests.helpers.dataset_folders import dataset_of


def test_image_names_are_relative_to_the_folder_of_all_images(monkeypatch, tmp_path):
    assert image_names(dataset_of("/x/a.png")) == ("a.png",)
    assert image_names(dataset_of("/x/b/a.png", "/x/c/a.png", "/x/d.png")) == ("b/a.png", "c/a.png", "d.png")
    monkeypatch.chdir(tmp_path)
    assert image_names(dataset_of("a.png", "./b/c.png", f"{tmp_path}/b/d.png")) == ("a.png", "b/c.png", "b/d.png")


def test_boxes_of_an_image_that_is_listed_twice_are_joined():
    dataset = dataset_of("/x/a.png", "/x/b.png", "/x/a.png", counts=(2, 1, 1))
    rows = rows_of_files(image_names(dataset), dataset)
    assert {stem: part.tolist() for stem, part in rows.items()} == {"a": [0, 1, 3], "b": [2]}
    assert all(part.dtype == np.int64 for part in rows.values())


def test_images_that_differ_only_in_their_suffix_are_an_error():
    dataset = dataset_of("/x/a.png", "/x/a.jpg")
    with pytest.raises(InputError) as caught:
        rows_of_files(image_names(dataset), dataset)
    assert str(caught.value) == (
        "a.png and a.jpg: their annotations would share the file a, but this format has one annotation file per image; "
        "rename one of the images"
    )


def test_no_file_is_written_if_one_exists(tmp_path):
    (tmp_path / "b").write_text("mine")
    with pytest.raises(InputError) as caught:
        write_new_files({tmp_path / "a": "1", tmp_path / "b": "2"})
    assert (
        str(caught.value)
        == f"{tmp_path}/b: exists and will not be overwritten; choose another folder or remove the file"
    )
    assert os.listdir(tmp_path) == ["b"] and (tmp_path / "b").read_text() == "mine"


def test_dangling_link_is_not_overwritten(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="exists and will not be overwritten"):
        write_new_files({tmp_path / "a": "1"})


def test_file_is_complete_or_unchanged(tmp_path, monkeypatch):
    replace_file(tmp_path / "new" / "a", "äö\n")
    assert (tmp_path / "new/a").read_bytes() == "äö\n".encode()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "new" / "a", "other")
    assert os.listdir(tmp_path / "new") == ["a"] and (tmp_path / "new/a").read_text() == "äö\n"


def test_full_disk_is_an_input_error(small_disk):
    replace_file(small_disk / "a", "old")
    with pytest.raises(InputError, match="cannot be written: No space left on device; choose another folder"):
        replace_file(small_disk / "a", "x" * 2_000_000)
    assert os.listdir(small_disk) == ["a"] and (small_disk / "a").read_text() == "old"


def test_names_that_are_not_unicode(tmp_path):
    replace_file(tmp_path / "a", os.fsdecode(b"caf\xe9"))  # the name of a file in another encoding
    assert (tmp_path / "a").read_bytes() == b"caf\xe9"
    with pytest.raises(InputError, match="cannot be written as UTF-8: "):
        replace_file(tmp_path / "a", "\ud800")
