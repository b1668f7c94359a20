"""Which files are found as images, and how they are named in the results."""

import os
from pathlib import Path

import pytest

from retinanet.errors import InputError
from retinanet.prediction.journal import Journal
from retinanet.prediction.sources import find_sources


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.fixture
def found(tmp_path):
    """Names of the images found in the inputs, relative to the test's folder."""

    def find(*inputs, recursive=False, output="out"):
        paths = [tmp_path / given for given in inputs]
        written = Journal(tmp_path / output).names
        sources = find_sources(paths, output=tmp_path / output, written=written, recursive=recursive)
        return [source.name for source in sources]

    return find


def test_hidden_files_and_other_files_are_skipped(found, tmp_path):
    write(tmp_path / "in", "b.png", "a.JPG", "._a.JPG", ".hidden.png", "notes.txt", ".cache/x.png")
    (tmp_path / "in" / "folder.png").mkdir()
    assert found("in", recursive=True) == ["a.JPG", "b.png"]


def test_subfolders_by_option_and_a_note_otherwise(found, tmp_path, caplog):
    write(tmp_path / "in", "b.png", "a/x.png", "a/y/z.png")
    with caplog.at_level("INFO", "retinanet"):
        assert found("in") == ["b.png"]
    assert "2 images or videos in its subfolders are not used; to use them, add --recursive" in caplog.text
    assert found("in", recursive=True) == ["a/x.png", "a/y/z.png", "b.png"]


def test_a_folder_with_images_only_in_subfolders_is_searched(found, tmp_path, caplog):
    write(tmp_path / "in", "a/x.png")
    with caplog.at_level("INFO", "retinanet"):
        assert found("in") == ["a/x.png"]
    assert "contains images or videos only in its subfolders" in caplog.text


def test_patterns(found, tmp_path):
    write(tmp_path / "in", "a1.png", "a2.png", "b.png", "a3.txt", "._a4.png", "deep/er/a5.png")
    assert found("in/a*") == ["a1.png", "a2.png"]
    assert found("in/**/a*") == ["a1.png", "a2.png", "deep/er/a5.png"]
    with pytest.raises(InputError, match=r"c\*\.png: matches no image or video"):
        found("in/c*.png")


def test_videos_are_found_like_images(found, tmp_path):
    write(tmp_path / "in", "b.png", "a.MP4", "c.mkv", ".d.mp4", "e.ts", "sub/f.webm")
    assert found("in") == ["a.MP4", "b.png", "c.mkv"]
    assert found("in", recursive=True) == ["a.MP4", "b.png", "c.mkv", "sub/f.webm"]
    assert found("in/*") == ["a.MP4", "b.png", "c.mkv"]


def test_a_name_with_wildcard_characters_is_a_file_if_it_exists(found, tmp_path):
    write(tmp_path / "in", "a[1].png", "a1.png")
    assert found("in/a[1].png") == ["a[1].png"]


def test_a_file_given_twice_is_used_once(found, tmp_path, monkeypatch):
    write(tmp_path / "in", "a.png", "b.png")
    assert found("in/b.png", "in", "in/../in/a.png") == ["b.png", "a.png"]
    monkeypatch.chdir(tmp_path / "in")
    assert len(find_sources(["a.png", tmp_path / "in" / "a.png"], output=tmp_path / "out", written=())) == 1


def test_equal_names_are_distinguished_by_their_folders(found, tmp_path):
    write(tmp_path, "one/x/a.png", "two/a.png")
    assert found("one/x", "two") == ["one/x/a.png", "two/a.png"]


def test_names_that_differ_only_in_case_are_distinguished(found, tmp_path):
    write(tmp_path, "one/a.png", "two/A.png")
    assert found("one", "two") == ["one/a.png", "two/A.png"]


def test_the_output_folder_and_earlier_output_folders_are_not_searched(found, tmp_path):
    write(tmp_path / "in", "a.png", "drawn/a.png", "earlier/sub/a.png", "mine/b.png")
    Journal(tmp_path / "in" / "earlier").start({}, ["sub/a.png"])
    assert found("in", recursive=True, output="in/drawn") == ["a.png", "mine/b.png"]
    assert found("in/**/*.png", output="in/drawn") == ["a.png", "mine/b.png"]


def test_drawn_images_next_to_the_inputs_are_not_inputs(found, tmp_path):
    write(tmp_path / "in", "a.jpg", "a.png")
    Journal(tmp_path / "in").start({}, ["a.png"])
    assert found("in", output="in") == ["a.jpg"]
    assert found("in/*", output="in") == ["a.jpg"]
    assert found("in", output="elsewhere") == ["a.jpg", "a.png"]  # another prediction may use them


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that may not be read")
def test_unreadable_folder(found, tmp_path):
    (tmp_path / "in").mkdir(mode=0)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        found("in")


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode")
def test_names_that_are_not_unicode(found, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write(tmp_path / "in", name, "Größe 方块.png")
    assert found("in") == ["Größe 方块.png", name]
