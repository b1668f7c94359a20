import pytest

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.sources import check_sources


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with data; the working directory is another, empty folder."""
    (tmp_path / "project" / "images").mkdir(parents=True)
    (tmp_path / "project" / "a.json").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "project"


def source(images="images", annotations="a.json"):
    return DataSource(images=str(images), annotations=str(annotations))


def problem(sources, **options) -> str:
    with pytest.raises(InputError) as caught:
        check_sources(sources, key="data.val", **options)
    return str(caught.value)


def test_existing_sources_pass(project, monkeypatch):
    check_sources([], key="data.val")
    check_sources([source(project / "images", project / "a.json")], key="data.val")
    monkeypatch.chdir(project)
    check_sources([source()], key="data.val")


def test_message_says_what_a_relative_path_is_relative_to(project, tmp_path):
    here = f"(the path is relative to the current folder, {tmp_path / 'empty'})"
    assert problem([source()]) == (
        f"a.json: cannot be read: No such file or directory {here}; "
        "set data.val.annotations to an annotation file or folder"
    )
    assert problem([source(annotations=project / "a.json")]) == (
        f"data.val.images: images is not a folder {here}; set it to the folder of the images"
    )


def test_message_names_the_folder_in_which_the_run_was_started_if_the_path_exists_there(project, tmp_path):
    hint = f". It exists in {project}, where the run was started: run this command there, or set"
    assert hint in problem([source()], started_in=project)
    assert hint in problem([source(annotations=project / "a.json")], started_in=project)
    assert "where the run" not in problem([source(annotations="b.json")], started_in=project)
    assert "where the run" not in problem([source()], started_in=None)


def test_absolute_path_is_not_explained(project):
    assert problem([source(annotations=project / "b.json")]) == (
        f"{project / 'b.json'}: cannot be read: No such file or directory; "
        "set data.val.annotations to an annotation file or folder"
    )


def test_every_source_is_checked(project):
    good = source(project / "images", project / "a.json")
    assert problem([good, source(annotations="b.json")]).startswith("b.json: ")
