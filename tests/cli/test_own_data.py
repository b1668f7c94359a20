"""`retinanet train --data FOLDER`: the config is adjusted to the user's dataset."""

from pathlib import Path

import pytest
import yaml

from retinanet.cli.own_data import is_dataset, own_config, own_or_named_config
from retinanet.cli.train import main
from retinanet.errors import InputError
from tests.helpers.dataset_folders import voc_xml, write_files
from tests.helpers.planted import HEIGHT, LARGE, WIDTH, CocoFolder, pattern, write_clean
from tests.helpers.processes import RETINANET, Program


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A Pascal VOC folder without splits: 24 images."""
    monkeypatch.chdir(tmp_path)
    files = {f"cells/{number:02}.xml": voc_xml(("cell", 10, 5, 22, 15)) for number in range(24)}
    write_files(tmp_path, {**files, **{f"cells/{number:02}.png": None for number in range(24)}})
    return tmp_path / "cells"


def test_config_is_adjusted_and_printed(folder, capsys):
    """Images of 20 pixels need not be resized to 320, and 3 steps per epoch (24 images, batch 8) need more epochs."""
    cfg = own_config(str(folder), None, ["device=cpu"])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"{folder}: Pascal VOC, XML files"
    assert said[1] == "no validation split: 10% of the training images are held out (data.val_fraction)"
    assert said[2] == "examining image sizes, objects and anchors"
    assert said[3].startswith("config: own_cpu, adjusted to the dataset; ")
    topics = [line.strip().partition(":")[0] for line in said[4:] if not line.startswith("    ")]
    assert topics == ["image size", "levels", "anchors", "batch", "sampling", "schedule"]
    lines = dict(line.strip().split("=", 1) for line in said if line.startswith("    "))
    assert cfg.train.epochs == float(lines["train.epochs"]) > 24
    assert cfg.data.val_fraction == 0.1 and cfg.data.val == ()
    assert cfg.data.train[0].annotations == str(folder) and cfg.data.train[0].format == "voc"


def test_overrides_are_applied_last(folder):
    cfg = own_config(str(folder), None, ["train.steps=4", "data.val_fraction=0.25", "device=cpu"])
    assert (cfg.train.steps, cfg.train.epochs, cfg.data.val_fraction) == (4, None, 0.25)


def test_given_config_is_not_adjusted(folder, capsys):
    cfg = own_config(str(folder), "quickstart", [])
    assert "epochs" not in capsys.readouterr().err
    assert cfg.data.train[0].annotations == str(folder) and cfg.data.val_fraction == 0.1


def test_validation_split_is_used(tmp_path):
    write_clean(tmp_path)
    cfg = own_or_named_config(str(tmp_path), [])
    assert [Path(source.annotations).name for source in (*cfg.data.train, *cfg.data.val)] == ["train.json", "val.json"]
    assert cfg.data.val_fraction == 0


def test_format_override_resolves_an_ambiguous_folder(folder, capsys):
    part = CocoFolder(folder, "train", ("cat",))
    pattern(0).save(part.add("0.png", LARGE))
    part.save()
    (folder / "train/0.png").rename(folder / "0.png")
    with pytest.raises(InputError, match=r"the format is ambiguous; .* Set data.train.format to one of coco, voc"):
        own_or_named_config(str(folder), [])
    for kind in ("coco", "voc"):
        assert own_or_named_config(str(folder), [f"data.train.format={kind}"]).data.train[0].format == kind
    with pytest.raises(InputError, match=r"data.train.format=cocoa: expected one of auto, coco, yolo"):
        own_or_named_config(str(folder), ["data.train.format=cocoa"])
    with pytest.raises(InputError, match="no YOLO annotations found"):
        own_or_named_config(str(folder), ["data.train.format=yolo"])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("data.yaml", "train: images\nnames: [cat]\n", True),
        ("mine.yaml", "base: quickstart\n", False),
        ("a.json", "{}", True),
        ("absent.yaml", None, False),
        ("quickstart", None, False),
        ("folder", "folder", True),
    ],
)
def test_datasets_are_distinguished_from_configs(tmp_path, monkeypatch, name, content, expected):
    monkeypatch.chdir(tmp_path)
    if content == "folder":
        Path(name).mkdir()
    elif content is not None:
        Path(name).write_text(content)
    assert is_dataset(name) is expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "absent"], "absent: cannot be read: No such file or directory"),
        (["--data", "cells", "--resume"], "--data starts a new run: remove --resume"),
        (["--data", "."], "no annotations found"),
    ],
)
def test_user_errors(folder, arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_stdout_contains_only_the_config(folder, capsys):
    assert main(["--data", "cells", "--print-config", "device=cpu"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["val_fraction"] == 0.1


def train(folder, *arguments):
    """Run the command in a folder; its exit code, output and errors."""
    program = Program(RETINANET, ["train", *arguments, "device=cpu", "data.workers=0"], folder=folder)
    return program.wait(timeout=300), program.output(), program.errors()


SMALL = ["train.steps=2", "data.resize.shorter=64", "data.resize.longer=96", "model.channels=16", "model.head_convs=1",
         "model.head_norm=none", "model.backbone.name=resnet10_half"]  # fmt: skip


@pytest.mark.slow
def test_folder_becomes_a_detector(folder):
    """Damaged images are found by the dry run, before the first step; images of another size by training, too."""
    code, _, errors = train(folder.parent, "--data", "cells", *SMALL)
    assert code == 0, errors
    assert "config: own_cpu, adjusted to the dataset" in errors
    assert (folder.parent / "runs/cells/checkpoints/last.pt").exists()
    assert not list(folder.glob("runs"))


@pytest.mark.slow
@pytest.mark.parametrize("option", [["--dry-run"], []])
def test_validation_image_of_the_wrong_size_prevents_the_run(tmp_path, option):
    overrides = write_clean(tmp_path)
    pattern(8).resize((WIDTH + 5, HEIGHT)).save(tmp_path / "val/8.png")
    code, output, errors = train(tmp_path, "quickstart", *overrides, *SMALL, *option)
    assert code == 2 and "differ in size from their annotations" in errors
    assert "val/8.png: is 101x64, but annotated as 96x64" in errors
    assert not (tmp_path / "runs").exists() and "step 1" not in output


@pytest.mark.slow
def test_dry_run_detects_a_truncated_validation_image(tmp_path):
    overrides = write_clean(tmp_path)
    last = tmp_path / "val/8.png"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    code, _, errors = train(tmp_path, "quickstart", *overrides, *SMALL, "--dry-run")
    assert code == 2 and "1 of 3 image(s) cannot be read" in errors
    assert str(last) in errors
