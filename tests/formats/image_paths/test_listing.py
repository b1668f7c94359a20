"""Names of image files, and paths inside and outside a folder."""

import os

import pytest

from retinanet.formats.image_paths.listing import image_files, path_inside


def test_images_are_listed_by_name_without_hidden_files(tmp_path):
    for name in ("b.PNG", "a/c.jpg", ".d.jpg", ".e/f.jpg", "g.txt", "a/h.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image_files(tmp_path) == ["a/c.jpg", "a/h.heic", "b.PNG"]


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("set/a.jpg", "a.jpg"),
        ("set/sub/../a.jpg", "a.jpg"),
        ("set", "."),
        ("set/..a/b.jpg", "..a/b.jpg"),
        ("set2/a.jpg", None),
        ("set/../a.jpg", None),
        ("..", None),
        ("/etc/passwd", None),
    ],
)
def test_path_inside_a_folder(tmp_path, monkeypatch, path, inside):
    monkeypatch.chdir(tmp_path)
    assert path_inside(path, "set") == inside
    assert path_inside(os.path.join(tmp_path, path), tmp_path / "set") == inside
    assert path_inside(os.path.join("..", path), ".") is None
