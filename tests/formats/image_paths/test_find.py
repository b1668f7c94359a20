"""Other spellings of file names, wrong folders, missing images, and names that point outside the folder."""

import unicodedata
from pathlib import Path

import pytest

from retinanet.errors import InputError
from retinanet.formats.findings import report
from retinanet.formats.image_paths.find import FEW, find_images
from retinanet.formats.read import read_dataset
from tests.helpers.coco_files import box, document, image, images_of, warnings_in


@pytest.fixture
def project(tmp_path):
    """A folder three levels deep, so the folders above it belong to the test."""
    folder = tmp_path / "home" / "me" / "set"
    folder.mkdir(parents=True)
    return folder


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


def find(folder, *names, key="data.train", **options):
    paths, findings = find_images(str(folder), names, source="a.json", key=key, **options)
    report(findings)
    return paths


def problem(folder, *names, **options) -> str:
    with pytest.raises(InputError) as caught:
        find(folder, *names, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- correct names


@pytest.mark.parametrize("count", [3, FEW + 1])  # looked up one by one, or in a listing of the folder
def test_paths_are_in_the_order_of_the_names(project, count, caplog):
    names = [f"a b/{number}.png" for number in range(count)][::-1]
    folder = write(project / "images", *names, "top.png", "a b/other.png")
    (project / "linked.png").touch()
    (project / "images/a b/link.png").symlink_to(project / "linked.png")
    names = [*names, "top.png", "a b/link.png", "./top.png", names[0]]
    assert find(folder, *names) == [f"{folder}/{name}" for name in names]
    assert find(folder) == []
    assert warnings_in(caplog) == []
    assert f"1 of {len(names) + 1} images are not in" in problem(folder, *names, "a b/gone.png")


@pytest.mark.parametrize("spell", [str, lambda path: f"{path}/../{path.rpartition('/')[2]}"])
def test_absolute_path_inside_the_folder_is_used(project, spell, monkeypatch):
    folder = write(project / "images", "a/1.png")
    assert find(folder, f"{spell(folder)}/a/1.png", "a/../a/1.png") == [f"{folder}/a/1.png"] * 2
    (project / "link").symlink_to(folder)
    assert find(project / "link", f"{folder}/a/1.png") == [f"{project}/link/a/1.png"]  # the folder's real path
    monkeypatch.chdir(project)
    assert find("images", f"{folder}/a/1.png") == ["images/a/1.png"]


# ---- names that point outside the folder


@pytest.mark.parametrize("name", ["{0}/secret.png", "../secret.png", "a/../../secret.png", "{0}/images2/x.png"])
def test_file_outside_the_folder_is_refused_by_default(project, name):
    name = name.format(project)
    folder = write(project / "images", "a/1.png", "secret2.png")
    write(project, "secret.png", "images2/x.png")
    assert problem(folder, name, "a/1.png") == (
        f"a.json: 1 file name(s) point outside {folder}, first [{name!r}]; use paths inside it, or set "
        "data.allow_outside_paths=true if you trust the file"
    )
    first, second = find(folder, name, "a/1.png", allow_outside=True)
    assert (first, second) == (name if name.startswith("/") else f"{folder}/{name}", f"{folder}/a/1.png")


@pytest.mark.parametrize("name", ["..\\secret.png", "%2e%2e/secret.png", "%2E%2E%2Fsecret.png", " ../secret.png"])
def test_no_spelling_points_outside_the_folder(project, name):
    folder = write(project / "images", "1.png")
    write(project, "secret.png")
    assert "2 of 2 images are not in" in problem(folder, name, name + " ")


# ---- other spellings of a name


NFD = unicodedata.normalize("NFD", "für_é")
SPELLINGS = {
    "backslash": ("images\\{}.png", "images/{}.png", "backslashes"),
    "Unicode": ("für_é_{}.png", NFD + "_{}.png", "the Unicode form of accented letters (NFC, NFD)"),
    "blanks": ("a/ {}.png ", "a/{}.png", "surrounding whitespace"),
    "URL": ("my%20pic%20{}.png", "my pic {}.png", "URL encoding (%20)"),
    "case": ("{}.png", "{}.PNG", "upper and lower case"),
    "case of a folder": ("images/a{}.jpg", "Images/A{}.jpg", "upper and lower case"),
    "two": ("Images\\{}.PNG", "images/{}.png", "backslashes and upper and lower case"),
    "extension": ("a/{}", "a/{}.png", "the missing extension .png"),
    "extension in capitals": ("{}", "{}.JPEG", "the missing extension .jpeg"),
    "Windows path": ("C:\\Users\\me\\set\\a\\{}.png", "a/{}.png", "the folder C:/Users/me/set of another computer"),
    "Unix path": ("/home/nobody/set/{}.png", "{}.png", "the folder /home/nobody/set of another computer"),
    "URL of a file": ("file:///home/nobody/my%20set/{}.png", "{}.png", "the folder file:///home/nobody/my%20set of "
                      "another computer"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPELLINGS)
def test_names_that_are_spelt_differently_are_matched_with_one_warning(project, kind, caplog):
    written, real, difference = SPELLINGS[kind]
    files = [real.format(f"{number:03}") for number in range(8)]
    folder = write(project / "images", *files, "right.png")
    names = [written.format(f"{number:03}") for number in range(8)]
    assert find(folder, *names, "right.png", names[0]) == [
        f"{folder}/{file}" for file in [*files, "right.png", files[0]]
    ]
    assert warnings_in(caplog) == [
        f"a.json: 8 file name(s) differ from the files in {folder} by {difference}; these files are used, "
        f"such as {files[0]!r} for {names[0]!r}"
    ]


def test_paths_of_several_other_computers_are_matched_by_unique_base_names(project, caplog):
    folder = write(project / "images", "1.png", "2.png")
    assert find(folder, "C:\\x\\1.png", "/y/z/2.png") == [f"{folder}/1.png", f"{folder}/2.png"]
    assert "by folders of other computers;" in warnings_in(caplog)[0]


def test_structure_below_the_folder_of_another_computer_is_kept(project):
    folder = write(project / "images", "a/1.png", "b/1.png", "b/2.png")
    names = ["/no/where/a/1.png", "/no/where/b/1.png", "/no/where/b/2.png"]
    assert find(folder, *names) == [f"{folder}/a/1.png", f"{folder}/b/1.png", f"{folder}/b/2.png"]
    assert "2 of 2 images are not in" in problem(folder, "/no/where/1.png", "/no/other/1.png")


@pytest.mark.parametrize(
    ("files", "name", "others"),
    [
        (["A.png", "a.PNG"], "a.png", []),  # two files fit
        (["A.png"], "a.png", ["A.png"]),  # the file belongs to another name
        (["a.jpg", "a.png"], "a", []),  # an image and its mask
        (["a.png"], "a.jpg", []),  # may be a mask
        (["a.json"], "a", []),  # not an image
    ],
)
def test_uncertain_match_is_refused(project, files, name, others):
    folder = write(project / "images", *files)
    message = problem(folder, name, *others)
    assert f"1 of {1 + len(others)} images are not in {folder}, first [{name!r}]" in message
    if files != ["a.json"]:
        assert f"; {name!r} may be {' or '.join(map(repr, files))}; correct the file names" in message


def test_two_names_for_one_file_are_refused(project):
    folder = write(project / "images", "a.png")
    assert "2 of 2 images are not in" in problem(folder, "A.png", "a.PNG")


# ---- other folders


def test_error_suggests_the_folder_above(project):
    folder = write(project / "train", "000.png", "001.png")
    assert problem(folder, "train/000.png", "train/001.png") == (
        f"a.json: 2 of 2 images are not in {folder}, first ['train/000.png', 'train/001.png']; 2 of them are in "
        f"{project}, one folder up; set data.train.images={project}"
    )


@pytest.mark.parametrize(
    ("images", "where", "level"),
    [
        ("images", "images/train", ""),
        ("labels", "images", ""),
        ("labels/train", "images/train", ""),
        ("a/b", ".", ", two folders up"),
    ],
)
def test_error_suggests_the_right_folder(project, images, where, level, monkeypatch):
    monkeypatch.chdir(project)
    write(project / where, *(f"{number}.jpg" for number in range(9)))
    write(project / images, "0.txt")
    message = problem(images, *(f"{number}.jpg" for number in range(9)), key="data.val")
    assert f"; 9 of them are in {where}{level}; set data.val.images={where}" in message


def test_folder_with_blanks_is_quoted_for_the_shell(project):
    write(project / "set #1", "1.png")
    write(project / "labels")
    (project / "labels").mkdir()
    assert f"set 'data.train.images={project}/set #1'" in problem(project / "labels", "1.png")


def test_folder_is_not_suggested_if_other_images_would_be_lost(project):
    folder = write(project / "a", "1.png", "2.png", "3.png", "sub/4.png")
    message = problem(folder, "1.png", "2.png", "3.png", "4.png")
    assert f"; 1 of them are in {folder}/sub; correct the file names or data.train.images, or skip" in message


def test_folder_is_named_if_names_have_a_superfluous_folder(project):
    folder = write(project / "a", "1.png", "2.png")
    message = problem(folder, "images/1.png", "images/2.png")
    assert f"; files with the base names of 2 of the first 2 are in {folder}; correct the" in message


def test_cyclic_links_do_not_loop_forever(project):
    folder = write(project / "a", "1.png")
    (project / "a" / "again").symlink_to(project)
    assert "1 of 1 images are not in" in problem(folder, "gone.png")


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "a\0b.png", "folder", "", "\udcff.png", "%00.png", "a/" * 3000])
def test_impossible_names_are_missing(project, name):
    folder = write(project / "a", "folder/1.png")
    assert "1 of 1 images are not in" in problem(folder, name)


# ---- missing images


def test_boxes_of_skipped_images_are_skipped(source, caplog):
    boxes = [box(1, 1, [1, 1, 5, 5]), box(2, 2, [2, 2, 5, 5]), box(3, 3, [3, 3, 5, 5], 7), box(4, 1, [4, 4, 5, 5])]
    some = source(document([image(number) for number in (2, 1, 3)], boxes))
    (Path(some.images) / "1.png").unlink()
    data = read_dataset((some,), skip_missing_images=True)
    assert [record.image_id for record in images_of(data)] == [2, 3]
    assert [Path(path).name for path in data.paths] == ["2.png", "3.png"]
    assert [record.boxes.tolist() for record in images_of(data)] == [[[2, 2, 7, 7]], [[3, 3, 8, 8]]]
    assert data.class_names == ("cat", "cow", "dog") and data.labels.tolist() == [0, 2]
    (warning,) = warnings_in(caplog)
    assert "1 of 3 images are not in" in warning


def test_missing_images_are_counted_and_listed(project):
    folder = write(project / "a", *(f"{number}.png" for number in (1, 7)))
    assert problem(folder, *(f"{number}.png" for number in range(1, 9)), key="data.val") == (
        f"a.json: 6 of 8 images are not in {folder}, first ['2.png', '3.png', '4.png', '5.png', '6.png']; correct "
        "data.val.images or the file names, or skip these images with data.missing_images=skip"
    )


@pytest.mark.parametrize(
    ("key", "end"), [("data.val", "the other 2 are scored"), ("data.train", "2 remain")]
)  # fmt: skip
def test_missing_images_are_skipped_on_request(project, key, end, caplog):
    folder = write(project / "a", "1.png", "3.PNG")
    assert find(folder, "1.png", "2.png", "3.png", "4.png", key=key, skip_missing=True) == [
        f"{folder}/1.png", None, f"{folder}/3.PNG", None
    ]  # fmt: skip
    repaired, skipped = warnings_in(caplog)
    assert "'3.PNG' for '3.png'" in repaired
    assert skipped == (
        f"a.json: 2 of 4 images are not in {folder}, first ['2.png', '4.png']; skipped (data.missing_images: "
        f"skip), {end}"
    )


def test_wrong_folder_is_refused_even_if_missing_images_are_skipped(project):
    folder = write(project / "a", "1.png")
    message = problem(folder, "1.png", "2.png", "3.png", skip_missing=True)
    assert message.startswith("a.json: 2 of 3 images are not in")
    assert message.endswith("data.missing_images=skip never skips more than half of the images")
    assert "1 of 1 images are not in" in problem(folder, "2.png", skip_missing=True)
