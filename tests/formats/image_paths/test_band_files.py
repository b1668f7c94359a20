"""Patterns of the files of an image: matching, missing files, and files that are not images of their own."""

import pytest

from retinanet.config.band_files import check_patterns
from retinanet.errors import InputError
from retinanet.formats.image_paths.band_files import annotated_files, band_paths, find_band_files

PARALLEL = ("rgb/{stem}.png", "thermal/{stem}.tif")


@pytest.mark.parametrize(
    ("path", "patterns", "others"),
    [
        ("/set/rgb/0001.png", PARALLEL, ["/set/thermal/0001.tif"]),
        ("/set/rgb/0001.png", ("{stem}.png", "../thermal/{stem}.tif"), ["/set/thermal/0001.tif"]),
        (
            "/set/a_R.tif",
            ("{scene}_R.tif", "{scene}_NIR.tif", "{scene}_SWIR.tif"),
            ["/set/a_NIR.tif", "/set/a_SWIR.tif"],
        ),
        ("/set/seq3/visible/7.jpg", ("visible/{frame}.jpg", "lwir/{frame}.jpg"), ["/set/seq3/lwir/7.jpg"]),
        ("/set/rgb/val/7.jpg", ("rgb/{split}/{n}.jpg", "ir/{split}/{n}.jpg"), ["/set/ir/val/7.jpg"]),
        ("/set/a/a.png", ("{x}/{x}.png", "{x}/{x}_2.png"), ["/set/a/a_2.png"]),
        ("/set/a(1)+.png", ("{stem}.png", "{stem}_ir.png"), ["/set/a(1)+_ir.png"]),
        ("/set/a\n.png", ("{stem}.png", "{stem}_ir.png"), ["/set/a\n_ir.png"]),
    ],
)
def test_paths_of_an_image(path, patterns, others):
    check_patterns(patterns)
    assert band_paths(path, patterns) == [path, *others]


def test_relative_path_is_completed_if_the_pattern_has_more_folders(tmp_path, monkeypatch):
    (tmp_path / "rgb").mkdir()
    monkeypatch.chdir(tmp_path / "rgb")
    assert band_paths("1.png", PARALLEL) == ["1.png", str(tmp_path / "thermal/1.tif")]


@pytest.mark.parametrize("path", ["/set/rgb/1.jpg", "/set/colour/1.png", "/set/rgb/.png", "/set/a/../b.png"])
def test_path_that_does_not_match_is_rejected(path):
    patterns = ("{folder}/{stem}.png", "{folder}/{stem}.tif") if ".." in path else PARALLEL
    with pytest.raises(InputError, match=r"does not match .*the first pattern of data\.band_files"):
        band_paths(path, patterns)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (("{stem}.png",), "at least one more"),
        (("{stem}.png", "{stem}.png"), "different files"),
        (("{stem}.png", "mask.png"), "the same file for every image"),
        (("image.png", "{stem}.png"), "the same file for every image"),
        (("{stem}.png", "{name}.tif"), r"uses \{name\}, which is not in the first pattern"),
        (("{stem}.png", "/data/{stem}.tif"), "is not a pattern"),
        (("{stem}.png", "{stem}.tif/"), "is not a pattern"),
        (("{stem}.png", "{stem.tif"), "is not a pattern|the same file"),
        (("{stem}.png", "ir\\{stem}.tif"), "is not a pattern"),
        (("../rgb/{stem}.png", "{stem}.tif"), "contains '..'"),
    ],
)
def test_unusable_patterns(patterns, words):
    with pytest.raises(ValueError, match=words):
        check_patterns(patterns)


def test_further_files_in_the_same_folder_are_not_images_of_their_own():
    patterns = ("{stem}.png", "{stem}_ir.png")
    files = ["/set/1.png", "/set/1_ir.png", "/set/2.png", "/set/2_ir.png", "/set/3.tif"]
    assert annotated_files(files, patterns) == ["/set/1.png", "/set/2.png", "/set/3.tif"]


def found(tmp_path, names, existing, **options):
    for name in existing:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = [None if name is None else str(tmp_path / name) for name in names]
    result = find_band_files(
        paths, PARALLEL, source="truth.json", key="data.train", **{"skip_missing": False} | options
    )
    return [path and path.removeprefix(f"{tmp_path}/") for path in result.paths], result.findings


def test_images_with_all_files_are_kept(tmp_path):
    names = ["rgb/1.png", None, "rgb/2.png"]
    assert found(tmp_path, names, ["thermal/1.tif", "thermal/2.tif"]) == (names, [])


def test_missing_file_is_reported_like_a_missing_image(tmp_path):
    names = [f"rgb/{number}.png" for number in range(4)]
    existing = ["thermal/0.tif", "thermal/1.tif", "thermal/3.tif"]
    paths, (finding,) = found(tmp_path, names, existing)
    assert (finding.severity, finding.kind, finding.where) == ("error", "missing_images", "truth.json")
    assert finding.message.startswith("1 of 4 images lack a file of data.band_files, first [")
    assert str(tmp_path / "thermal/2.tif") in finding.message and "data.missing_images=skip" in finding.message
    paths, (finding,) = found(tmp_path, names, existing, skip_missing=True)
    assert paths == ["rgb/0.png", "rgb/1.png", None, "rgb/3.png"] and finding.severity == "warning"
    _, (finding,) = found(tmp_path, [*names, "rgb/5.png", "rgb/6.png", "rgb/7.png"], existing, skip_missing=True)
    assert finding.severity == "error" and "never skips more than half" in finding.message


def test_listed_further_files_are_left_out_with_a_note(tmp_path):
    patterns = ("{stem}_R.tif", "{stem}_NIR.tif")
    for name in ("a_R.tif", "a_NIR.tif"):
        (tmp_path / name).touch()
    paths = [str(tmp_path / name) for name in ("a_NIR.tif", "a_R.tif")]
    result = find_band_files(paths, patterns, source="set", key="data.train", skip_missing=False)
    assert result.paths == [None, paths[1]]
    assert [(finding.severity, finding.kind) for finding in result.findings] == [("note", "band_files")]
