"""Findings about the images of a split: counts, severity, examples and duplicates."""

import pytest

from retinanet.config.load import load_config
from retinanet.doctor.duplicates import find_duplicates
from retinanet.doctor.images import check_images
from tests.helpers.dataset_folders import dataset_of, write_image


@pytest.fixture
def images(tmp_path):
    for number in range(6):
        write_image(tmp_path / f"{number}.png")
    return dataset_of(*(str(tmp_path / f"{number}.png") for number in range(6)))


def check(datasets, *overrides, **options):
    cfg = load_config("quickstart", ["data.train=[]", "data.val=[]", *overrides])
    return check_images(datasets, cfg, silent=True, **options)


@pytest.mark.parametrize(("limit", "severity"), [(5, "warning"), (4, "error")])
@pytest.mark.parametrize("decode", [True, False])
def test_training_tolerates_max_unreadable_images(images, tmp_path, limit, severity, decode):
    for number in range(5):
        (tmp_path / f"{number}.png").write_text("not an image")
    result = check({"train": images}, f"data.max_unreadable={limit}", decode=decode)
    (finding,) = result.findings
    assert (finding.severity, finding.kind, finding.where) == (severity, "unreadable_images", "data.train")
    assert finding.message.startswith("5 of 6 image(s) cannot be read; ")
    assert len(finding.examples) == 4 and finding.examples[-1] == "..."
    assert result.unusable == {"train": {0, 1, 2, 3, 4}}
    assert (result.channels.images if decode else result.channels) == (1 if decode else None)


def test_no_image_replaces_the_others_if_none_can_be_read(images, tmp_path):
    for file in tmp_path.iterdir():
        file.write_text("not an image")
    (finding,) = check({"train": images}, "data.max_unreadable=10", decode=False).findings
    assert finding.severity == "error" and finding.message.endswith("remove them from the annotations")


def test_evaluation_tolerates_none(images, tmp_path):
    (tmp_path / "5.png").unlink()
    result = check({"val": images}, decode=False)
    assert [(finding.severity, finding.kind) for finding in result.findings] == [("error", "unreadable_images")]
    assert result.unusable == {"val": {5}}


def test_sample_is_spread_over_the_dataset(images, tmp_path):
    for number in (1, 2, 3, 4):
        (tmp_path / f"{number}.png").write_text("not an image")
    result = check({"val": images}, decode=False, max_images=2)
    assert [finding.kind for finding in result.findings] == ["sampled_images"]
    assert result.unusable == {"val": set()}


def test_copies_in_one_split_and_across_splits():
    """a, b, c are equal; a and b are for training. d is similar to e, f to g, which is for validation."""
    paths = {"train": ["a", "b", "d", "e", "f"], "val": ["c", "g"]}
    digests = [b"1", b"1", b"2", b"3", b"4", b"1", b"5"]
    hashes = [0, 0, 2**32 - 1, 2**32 - 2, 2**64 - 1, 0, 2**64 - 4]
    found = {finding.kind: (finding.severity, finding.examples) for finding in find_duplicates(paths, digests, hashes)}
    assert found == {
        "val_is_train": ("warning", ("a = b = c",)),
        "val_resembles_train": ("warning", ("f = g",)),
        "similar_images": ("note", ("d = e",)),
    }


def test_file_listed_twice_is_not_a_copy_within_a_split_but_a_leak_across_splits():
    assert find_duplicates({"train": ["a", "./a"], "val": []}, [b"1", b"1"], [None, None]) == []
    (finding,) = find_duplicates({"train": ["a"], "val": ["a"]}, [b"1", b"1"], [None, None])
    assert finding.kind == "val_is_train"
