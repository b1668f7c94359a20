"""Names of output files, checks that protect other files, and atomic writes."""

import os
from pathlib import Path

import pytest

from retinanet.errors import InputError
from retinanet.prediction.outputs import OutputFolder, Outputs, check_nothing_is_overwritten, frame_stem, output_stems


def test_stems_are_names_without_suffix():
    assert output_stems(["a.png", "sub/a.png", "b.tar.jpg"]) == ["a", "sub/a", "b.tar"]


def test_images_that_differ_in_their_suffix_keep_it():
    assert output_stems(["a.png", "a.jpg", "b.png"]) == ["a.png", "a.jpg", "b"]


def test_stems_are_unique_on_any_file_system():
    composed, decomposed = "caf\u00e9.png", "cafe\u0301.png"
    stems = output_stems(["a.png", "A.PNG", "a.jpg.gif", "a.jpg", composed, decomposed])
    assert len({os.path.normcase(stem.lower()) for stem in stems[:4]}) == 4
    assert stems[4:] == [composed, f"{decomposed}_2"]


def test_a_video_keeps_its_suffix_if_a_folder_has_its_name_without_it():
    """The names of its frames would be in this folder. The folders of images are not affected."""
    assert output_stems(["clip.mp4", "clip/000001.png", "a.png", "a/b.png"]) == ["clip.mp4", "clip/000001", "a", "a/b"]
    assert output_stems(["clip.mp4", "clip.png", "sub/clip.mp4"]) == ["clip.mp4", "clip.png", "sub/clip"]


def test_names_of_the_files_of_a_video():
    assert Outputs(yolo=True).names_for_video("a/b") == ["a/b.mp4", "labels/a/b"]
    assert Outputs(draw=False).names_for_video("a") == []
    assert frame_stem("a/b", 12) == "a/b/000012"


def test_names_of_all_files():
    assert Outputs().names_for("a/b") == ["a/b.png"]
    assert Outputs(draw=False).names_for("a") == []
    assert Outputs(image_format="jpg", yolo=True).names_for("a") == ["a.jpg", "labels/a.txt"]
    assert Outputs().shared_names() == ["detections.json", "detections.csv", "counts.csv"]
    assert Outputs(yolo=True, crops=True).shared_names()[3:] == ["classes.txt", "crops"]


def test_inputs_and_files_that_no_prediction_wrote_are_protected(tmp_path):
    (tmp_path / "a.png").touch()
    check_nothing_is_overwritten(tmp_path, ["b.png"], inputs=[str(tmp_path / "a.png")], ours=set())
    check_nothing_is_overwritten(tmp_path, ["a.png"], inputs=[], ours={"a.png"})
    with pytest.raises(InputError, match=r"a\.png: already exists and was not written by `retinanet predict`"):
        check_nothing_is_overwritten(tmp_path, ["b.png", "a.png"], inputs=[], ours={"b.png"})
    with pytest.raises(InputError, match=r"a\.png: is one of the images to predict on"):
        check_nothing_is_overwritten(tmp_path, ["a.png"], inputs=[str(tmp_path / "a.png")], ours={"a.png"})


def test_links_to_inputs_are_protected(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "a.png").touch()
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "out" / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match="is one of the images"):
        check_nothing_is_overwritten(tmp_path / "out", ["a.png"], inputs=[str(tmp_path / "a.png")], ours={"a.png"})
    with pytest.raises(InputError, match=r"b\.png: already exists"):
        check_nothing_is_overwritten(tmp_path / "out", ["b.png"], inputs=[], ours=set())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    folder = OutputFolder(tmp_path)
    folder.write("sub/a.txt", b"old")
    with pytest.raises(RuntimeError), folder.replacing("sub/a.txt") as file:
        file.write(b"new")
        raise RuntimeError
    assert (tmp_path / "sub" / "a.txt").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["sub"]


def test_a_file_in_place_of_a_folder_is_reported(tmp_path):
    (tmp_path / "sub").touch()
    with pytest.raises(InputError, match=r"a\.txt: cannot be written: "):
        OutputFolder(tmp_path).write("sub/a.txt", b"")


def test_removing_a_file_removes_its_empty_folders(tmp_path):
    folder = OutputFolder(tmp_path)
    for name in ("a/b/c.txt", "a/b/d.txt", "e.txt"):
        folder.write(name, b"x")
    for name in ("a/b/c.txt", "gone.txt", "a"):
        folder.remove(name)
    assert folder.has("a/b/d.txt") and not folder.has("a/b/c.txt")
    folder.remove("a/b/d.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["e.txt"]


def test_a_file_that_cannot_be_removed_is_reported(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    folder = OutputFolder(tmp_path)
    folder.write("a.txt", b"x")
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(InputError, match=r"a\.txt: cannot be removed: Permission denied; correct its permissions"):
        folder.remove("a.txt")


def test_an_empty_file_does_not_count(tmp_path):
    (tmp_path / "a").touch()
    assert not OutputFolder(tmp_path).has("a")
