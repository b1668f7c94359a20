"""The command `retinanet convert`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from retinanet.cli.convert import main
from retinanet.config import DataSource
from retinanet.formats.convert import TARGETS
from retinanet.formats.read import read_dataset

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(shapes):
    """The dataset folder, with the splits train (24 images) and val (8 images)."""
    return shapes


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(folder, split, **fields):
    return read_dataset((DataSource(annotations=str(folder), split=split, **fields),))


def objects(data):
    """Class and box of each object, excluding crowd regions."""
    names = [data.class_names[label] for label in data.labels]
    return [
        row
        for row, crowd in zip(zip(names, data.boxes_xywh.tolist(), strict=True), data.is_crowd, strict=True)
        if not crowd
    ]


@pytest.mark.parametrize("to", TARGETS)
def test_all_splits_of_a_folder_are_converted(source, tmp_path, to, capsys, restore_process_settings):
    before = content_of(source)
    assert main([str(source), "--to", to, "--output", str(tmp_path / "new"), "--images", "link"]) == 0
    printed = capsys.readouterr().out.splitlines()
    original = {split: read(source, split) for split in ("train", "val")}
    for split, data in original.items():
        assert f"{split}: {len(data)} images, {len(data.labels)} boxes" in printed
        assert objects(read(tmp_path / "new", split)) == objects(data)
    assert any(line.startswith("verified: ") for line in printed)
    assert any(line.startswith("  not in") for line in printed) == (to != "coco")
    assert content_of(source) == before
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_one_file_with_overrides_is_converted(source, tmp_path, capsys, restore_process_settings):
    names = json.loads((source / "train.json").read_text())["categories"]
    some = names[1]["name"]
    arguments = [str(source / "train.json"), f"data.train.images={source / 'train'}", f"data.classes=[{some}]"]
    assert main([*arguments, "--to", "csv", "--output", str(tmp_path / "new"), "--split", "val"]) == 0
    assert (tmp_path / "new" / "val" / "classes.csv").read_text() == f"{some},{names[1]['id']}\n"
    images = [path for path in (tmp_path / "new" / "val").iterdir() if path.suffix == ".jpg" or path.suffix == ".png"]
    assert len(images) == 24 and not any(path.is_symlink() for path in images)
    assert "category ids" not in capsys.readouterr().out


def test_one_split_without_images(source, tmp_path, restore_process_settings):
    new = tmp_path / "new"
    for to in TARGETS:
        assert main([str(source), "--to", to, "--output", str(new / to), "--split", "val", "--images", "none"]) == 0
    assert {path.suffix for path in new.rglob("*") if path.is_file()} == {".json", ".csv", ".txt", ".xml", ".yaml"}
    assert not any(path.is_dir() and not any(path.iterdir()) for path in new.rglob("*"))
    for to in ("coco", "csv", "labelme", "open_images"):
        assert objects(read(new / to, "val", images=str(source / "val"))) == objects(read(source, "val"))


def test_lost_information_is_printed(source, tmp_path, capsys, restore_process_settings):
    document = json.loads((source / "train.json").read_text())
    for number, annotation in enumerate(document["annotations"]):
        area = annotation["bbox"][2] * annotation["bbox"][3]
        annotation |= {"iscrowd": int(number == 3), "area": 1 if number < 2 else area}
    (tmp_path / "some.json").write_text(json.dumps(document))
    arguments = [str(tmp_path / "some.json"), f"data.train.images={source / 'train'}", "--images", "link"]
    assert main([*arguments, "--to", "csv", "--output", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "  not in CSV: crowd regions are not written: 1" in printed
    assert "  not in CSV: object areas are replaced by box areas: 2" in printed
    assert f"verified: 24 images, {len(document['annotations']) - 1} boxes read back" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--to", "csv", "--output", "new"], "error: nowhere: does not exist; set data.train"),
        (["{source}", "--to", "csv", "--output", "full"], "error: full: exists and is not an empty folder"),
        (
            ["{source}", "--to", "csv", "--output", "{source}/new"],
            "error: {source}/new: is inside {source}, which must",
        ),
        (
            ["{source}", "--to", "csv", "--output", "new", "--split", "test"],
            "error: {source}: has no split test, only ",
        ),
        (
            ["{source}", "--to", "csv", "--output", "new", "data.train=x"],
            "error: overrides: data.train would replace {source}",
        ),
        (["{source}", "--to", "csv", "--output", "new", "data.clases=[a]"], "error: overrides: 1 problem(s)"),
        (["{source}", "--to", "csv", "--output", "new", "data.classes=[unicorn]"], "error: data.classes: 'unicorn'"),
    ],
)
def test_user_errors(source, tmp_path, monkeypatch, capsys, restore_process_settings, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    assert main([argument.format(source=source) for argument in arguments]) == 2
    assert capsys.readouterr().err.startswith(message.format(source=source))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "x"]


def test_unknown_format_is_reported(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["some", "--to", "tfrecord", "--output", "new"])
    assert stop.value.code == 2
    assert "invalid choice: 'tfrecord'" in capsys.readouterr().err


def in_process(*arguments):
    command = [sys.executable, "-m", "retinanet", "convert", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


def test_process_exits_with_an_error_message(source, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    result = in_process(source, "--to", "csv", "--output", tmp_path / "full")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: {tmp_path / 'full'}: exists and is not an empty folder; choose another --output\n"


@pytest.mark.slow  # starts a process that imports torch
def test_conversion_in_a_process(source, tmp_path):
    result = in_process(source, "--to", "labelme", "--output", tmp_path / "new")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == f"written: {tmp_path / 'new'} (labelme)"
    assert len(list((tmp_path / "new" / "train").glob("*.json"))) == 24
