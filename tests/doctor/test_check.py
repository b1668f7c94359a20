"""The complete check finds exactly the faults of a dataset and changes nothing."""

import hashlib
import re

import pytest
import torch

from retinanet.config.load import load_config
from retinanet.doctor.check import check, check_before_training, read_datasets
from retinanet.errors import InputError
from tests.helpers.planted import PLANTED, CocoFolder, overrides_of, pattern, write_clean, write_planted

CPU = torch.device("cpu")


def contents(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


def kinds(findings):
    return sorted((finding.severity, finding.kind) for finding in findings)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return folder, load_config("quickstart", write_planted(folder))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return load_config("quickstart", write_clean(tmp_path_factory.mktemp("clean")))


def test_every_planted_fault_is_found_and_nothing_else(planted):
    folder, cfg = planted
    before = contents(folder)
    report = check(cfg, name="planted", device=CPU, draw=False, silent=True)
    assert kinds(report.findings) == sorted(PLANTED)
    assert [finding.severity for finding in report.findings] == ["error"] * 2 + ["warning"] * 11 + ["note"] * 3
    assert report.has_errors and report.counts == {"error": 2, "warning": 11, "note": 3}
    assert contents(folder) == before


def test_examples_name_the_files(planted):
    folder, cfg = planted
    examples = {
        (finding.kind, finding.where): finding.examples
        for finding in check(cfg, name="planted", device=CPU, draw=False, silent=True).findings
    }
    train, val = folder / "train", folder / "val"
    assert examples["duplicate_images", "data"] == (f"{train / '1.png'} = {train / 'copy.png'}",)
    assert examples["val_is_train", "data.val"] == (f"{train / '2.png'} = {val / 'leak.png'}",)
    assert examples["val_resembles_train", "data.val"] == (f"{train / '3.png'} = {val / 'near.png'}",)
    assert examples["image_size_differs", "data.train"][0].startswith(f"{train / 'other_size.png'}: is 96x64, but ")


def test_clean_dataset_has_no_findings(clean):
    report = check(clean, name="clean", device=CPU, silent=True)
    assert report.findings == [] and not report.has_errors
    assert [len(row.views) for row in report.views] == [3] * 6
    assert [len(data) for data in report.datasets.values()] == [6, 3]


def test_headers_reveal_other_sizes_but_not_damage(planted):
    _, cfg = planted
    found = kinds(check(cfg, name="planted", device=CPU, decode=False, draw=False, silent=True).findings)
    assert ("warning", "image_size_differs") in found
    assert not {"unreadable_images", "duplicate_images", "similar_images"} & {kind for _, kind in found}


def test_validation_set_is_checked_even_if_the_training_set_cannot_be_read(tmp_path):
    overrides = write_clean(tmp_path)
    (tmp_path / "train.json").write_text("{")
    (tmp_path / "val/7.png").unlink()
    datasets, findings = read_datasets(load_config("quickstart", overrides))
    assert kinds(findings) == [("error", "missing_images"), ("error", "unusable")]
    assert list(datasets) == ["val"]


def test_all_errors_of_a_file_are_shown(tmp_path):
    """Fractions of the image instead of pixels, and a missing image: neither hides the other."""
    part = CocoFolder(tmp_path, "train", ("cat",))
    for seed in range(6):
        pattern(seed).save(part.add(f"{seed}.png", [0.1, 0.2, 0.5, 0.5]))
    part.add("missing.png", [0.1, 0.2, 0.5, 0.5])
    part.save()
    cfg = load_config("quickstart", [*overrides_of(tmp_path), "data.val=[]"])
    _, findings = read_datasets(cfg)
    assert kinds(findings) == [("error", "boxes_normalised"), ("error", "missing_images"), ("note", "no_validation")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.classes=[cta]", "data.classes: 'cta' is not a category of "),
        ("model.num_classes=80", "model.num_classes: is 80, but "),
    ],
)
def test_fault_of_the_config_is_one_error(tmp_path, override, message):
    _, findings = read_datasets(load_config("quickstart", [*write_clean(tmp_path), override]))
    assert kinds(findings) == [("error", "unusable")]
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        check_before_training(load_config("quickstart", [*write_clean(tmp_path / "b"), override]), decode=False)


def test_all_images_missing_is_one_error(tmp_path):
    overrides = write_clean(tmp_path)
    for file in (tmp_path / "train").iterdir():
        file.unlink()
    _, findings = read_datasets(load_config("quickstart", overrides))
    assert kinds(findings) == [("error", "missing_images")]


def test_no_image_can_be_read(tmp_path):
    """This happens with Git LFS pointers: there is no image to show, but everything else is reported."""
    overrides = write_clean(tmp_path)
    for file in (tmp_path / "train").iterdir():
        file.write_text("version https://git-lfs.github.com/spec/v1\n")
    report = check(load_config("quickstart", overrides), name="lfs", device=CPU, silent=True)
    assert kinds(report.findings) == [("error", "unreadable_images")]
    assert report.views == report.transforms == [] and report.anchors is not None


# ---- before training


def test_training_is_refused_with_all_errors(planted):
    _, cfg = planted
    with pytest.raises(InputError) as caught:
        check_before_training(cfg, decode=True, silent=True)
    lines = str(caught.value).split("\n  ")
    assert lines[0] == "2 problem(s) in the data" and "missing.png" in lines[1] and "val/damaged.png" in lines[2]


@pytest.mark.parametrize("decode", [True, False])
def test_findings_about_images_are_returned(tmp_path, decode):
    overrides = write_clean(tmp_path)
    pattern(50).resize((90, 60)).save(tmp_path / "train/0.png")  # annotated as 96 x 64
    cfg = load_config("quickstart", overrides)
    assert kinds(check_before_training(cfg, decode=decode, silent=True)) == [("warning", "image_size_differs")]
    with pytest.raises(InputError, match=r"data\.max_unreadable allows 0"):
        check_before_training(
            load_config("quickstart", [*overrides, "data.max_unreadable=0"]), decode=decode, silent=True
        )


def test_truncated_validation_image_is_detected_by_decoding(tmp_path):
    overrides = write_clean(tmp_path)
    last = tmp_path / "val/8.png"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    cfg = load_config("quickstart", overrides)
    assert check_before_training(cfg, decode=False, silent=True) == []
    with pytest.raises(
        InputError, match=r"data\.val: 1 of 3 image\(s\) cannot be read; an evaluation needs all of them"
    ):
        check_before_training(cfg, decode=True, silent=True)


def test_large_dataset_is_sampled(clean, monkeypatch):
    monkeypatch.setattr("retinanet.doctor.check.MAX_HEADERS", 4)
    (finding,) = check_before_training(clean, decode=False, silent=True)
    assert finding.kind == "sampled_images" and finding.message.startswith("only 4 of 6 images were checked")
