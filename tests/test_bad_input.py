"""A user's mistake ends every tool the same way: exit code 2, one message on stderr, no traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from retinanet.checkpoint.file import Checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.cli import eval as eval_tool
from retinanet.cli import predict as predict_tool
from retinanet.cli import train as train_tool
from retinanet.config.load import load_config
from retinanet.errors import InputError, exit_code, make_folder
from retinanet.model.retinanet import build_model

REPO = Path(__file__).resolve().parent.parent


pytestmark = pytest.mark.usefixtures("process_as_before")


@pytest.fixture
def refused(capsys):
    """Runs a tool that must refuse its input, and returns the message."""

    def run(tool, *arguments):
        assert tool.main([str(argument) for argument in arguments]) == 2
        printed = capsys.readouterr()
        message = printed.err.rpartition("\r")[2]  # what a progress bar has left is wiped out
        assert message.startswith("error: ") and message.endswith("\n")
        assert printed.err.count("error: ") == 1
        assert "Traceback" not in printed.err + printed.out
        assert "InputError" not in printed.err and ".py" not in printed.err
        return message.removeprefix("error: ").rstrip("\n")

    return run


@pytest.fixture
def train_refused(refused, tiny_overrides, tmp_path):
    """Trains as quickstart says, with more overrides and arguments; nothing may be trained."""

    def run(*arguments):
        message = refused(train_tool, "quickstart", *tiny_overrides, "--output", tmp_path / "run", *arguments)
        assert not (tmp_path / "run" / "checkpoints").exists()
        return message

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, shapes):
    """An untrained network in a checkpoint like those of training."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    overrides = ["model.channels=64", "model.head_convs=1", "data.resize.shorter=64", "data.resize.longer=96"]
    overrides += ["device=cpu", "train.precision=fp32", "data.workers=0"]
    overrides += [f"data.val.images={shapes / 'val'}", f"data.val.annotations={shapes / 'val.json'}"]
    cfg = load_config("quickstart", overrides)
    categories = json.loads((shapes / "val.json").read_text())["categories"]
    categories.sort(key=lambda category: category["id"])
    torch.manual_seed(0)
    checkpoint = Checkpoint(
        config=cfg,
        class_names=tuple(category["name"] for category in categories),
        category_ids=tuple(category["id"] for category in categories),
        num_images=1,
        step=1,
        state={"model": build_model(cfg.model, len(categories)).state_dict()},
    )
    return CheckpointFolder(folder, keep=1).save(checkpoint)


@pytest.fixture
def not_a_checkpoint(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("hello, these are no weights\n" * 10)
    return path


def changed(shapes, tmp_path, change):
    """The training annotations after a change."""
    document = json.loads((shapes / "train.json").read_text())
    change(document)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(document))
    return path


# ---- train


def test_no_such_config(refused, tmp_path):
    assert refused(train_tool, "quikstart") == (
        "quikstart: no such configuration file, by path or by name in the package; did you mean quickstart?"
    )
    assert refused(train_tool, tmp_path / "mine.yaml").startswith(f"{tmp_path / 'mine.yaml'}: no such configuration")


def test_typo_in_the_config(refused, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {epochs: 1, batchsize: 3, optimizer: {type: sgd, lr: fast}}\n")
    assert refused(train_tool, path, "--output", tmp_path / "run").splitlines() == [
        f"{path}: 2 problem(s) in the configuration",
        '  train.optimizer.lr: found "fast" (text), expected a number',
        "  train.batchsize: unknown key; did you mean 'batch_size'?",
    ]
    assert not (tmp_path / "run").exists()


def test_wrong_override(train_refused):
    assert train_refused("train.batch_size=2.5").endswith(
        "train.batch_size: found 2.5 (number), expected a whole number"
    )
    assert train_refused("batch_size").startswith("override 'batch_size': expected KEY.KEY=VALUE")


def test_binary_file_as_config(refused, checkpoint, tmp_path):
    message = refused(train_tool, checkpoint, "--output", tmp_path / "run")
    assert message.startswith(str(checkpoint)) and "\n" not in message


def test_no_data(refused, tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {epochs: 1}\n")
    message = refused(train_tool, tmp_path / "mine.yaml", "--output", tmp_path / "run", "device=cpu")
    assert message == ("data.train: no data given; set data.train.images=FOLDER data.train.annotations=FILE")


def test_annotations_missing(train_refused):
    assert train_refused("data.train.annotations=gone.json").startswith("gone.json: cannot be read: No such file")
    assert train_refused("data.val.annotations=gone.json").startswith("gone.json: cannot be read: No such file")


def test_annotations_of_another_form(train_refused, tmp_path):
    (tmp_path / "some.json").write_text('{"shapes": []}')
    assert "is not in COCO form" in train_refused(f"data.train.annotations={tmp_path / 'some.json'}")


def test_images_missing(train_refused, shapes, tmp_path):
    assert "data.train.images: gone is not a folder" in train_refused("data.train.images=gone")
    (tmp_path / "empty").mkdir()
    assert "24 of 24 images are not in" in train_refused(f"data.train.images={tmp_path / 'empty'}")


def test_num_classes_of_other_data(train_refused):
    message = train_refused("model.num_classes=80")
    assert message.startswith("model.num_classes is 80, but ") and "has " in message and "classes [" in message


def test_class_that_is_not_there(train_refused, shapes):
    name = json.loads((shapes / "train.json").read_text())["categories"][0]["name"]
    message = train_refused(f"data.classes=[{name}x]")
    assert message.startswith(f"data.classes: '{name}x' is no category of ")
    assert message.endswith(f"did you mean '{name}'?")


def test_strict_boxes(train_refused, shapes, tmp_path):
    path = changed(shapes, tmp_path, lambda d: d["annotations"][0].update(bbox=[4, 4, 0, 4]))
    message = train_refused(f"data.train.annotations={path}", "data.strict=true")
    assert "has bbox [4, 4, 0, 4]: without area" in message


def test_images_of_another_size(refused, tiny_overrides, shapes, tmp_path):
    def grow(document):
        for image in document["images"]:
            image["width"] += 1

    path = changed(shapes, tmp_path, grow)
    arguments = [*tiny_overrides, f"data.train.annotations={path}", "--output", tmp_path / "run"]
    assert "but its annotations say" in refused(train_tool, "quickstart", *arguments)


def test_device_that_is_not_there(train_refused):
    assert train_refused("device=gpu").startswith("device: gpu cannot be used: ")


def test_folder_that_holds_a_run(train_refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("kept")
    (tmp_path / "run" / "environment.json").write_text("{}")
    assert train_refused() == (
        f"{tmp_path / 'run'}: holds a run; continue it with --resume, replace it with --overwrite, or name another "
        "folder"
    )
    assert (tmp_path / "run" / "config.yaml").read_text() == "kept"


@pytest.mark.parametrize("below", [".", "run"])
def test_output_that_cannot_be_written(refused, tiny_overrides, tmp_path, below):
    (tmp_path / "file").write_text("kept")
    output = tmp_path / "file" / below
    message = refused(train_tool, "quickstart", *tiny_overrides, "--output", output)
    assert message.startswith(f"{output}: cannot be written to: ") and message.endswith("; name another folder")
    assert (tmp_path / "file").read_text() == "kept"


# ---- eval


def test_eval_of_something_else(refused, not_a_checkpoint, tmp_path):
    assert refused(eval_tool, tmp_path / "gone.pt").startswith(f"{tmp_path / 'gone.pt'}: no such checkpoint; ")
    message = refused(eval_tool, not_a_checkpoint)
    start = f"{not_a_checkpoint}: not a checkpoint of this framework: it is no archive of torch.save; "
    assert message.startswith(start)
    assert message.endswith("name a file written by training")
    torch.save({"model": {}}, tmp_path / "other.pt")
    assert "not a 'retinanet checkpoint 3'" in refused(eval_tool, tmp_path / "other.pt")


def test_damaged_checkpoint(refused, checkpoint, tmp_path):
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    copy = tmp_path / checkpoint.name
    copy.write_bytes(content)
    (tmp_path / f"{copy.name}.sha256").write_bytes(checkpoint.with_name(checkpoint.name + ".sha256").read_bytes())
    assert refused(eval_tool, copy).startswith(f"{copy}: damaged: checksum differs from ")


def test_eval_overrides(refused, checkpoint):
    message = refused(eval_tool, checkpoint, "data.vall.images=x")
    assert message.startswith(f"{checkpoint} with overrides: 1 problem(s)")
    assert message.endswith("data.vall: unknown key; did you mean 'val'?")
    assert refused(eval_tool, checkpoint, "data.val=[]").startswith("data.val: no data given; ")
    assert "gone.json: cannot be read" in refused(eval_tool, checkpoint, "data.val.annotations=gone.json")


def test_eval_on_other_classes(refused, checkpoint, tmp_path):
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "cats.json").write_text(json.dumps(document))
    message = refused(eval_tool, checkpoint, f"data.val.annotations={tmp_path / 'cats.json'}")
    assert message.startswith(f"data.val: the categories of {tmp_path / 'cats.json'} do not match the classes ")


def test_eval_output_that_cannot_be_written(refused, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_tool, "evaluate_dataset", lambda *_, **__: pytest.fail("found out only after the work"))
    (tmp_path / "file").touch()
    message = refused(eval_tool, checkpoint, "--output", tmp_path / "file")
    assert message.startswith(f"{tmp_path / 'file'}: cannot be written to: ")


# ---- predict


def test_predict_without_a_checkpoint(refused, not_a_checkpoint, shapes, tmp_path):
    message = refused(predict_tool, not_a_checkpoint, shapes / "val", "--output", tmp_path / "found")
    assert "not a checkpoint of this framework" in message
    assert not (tmp_path / "found").exists()


def test_predict_on_what_is_no_image(refused, checkpoint, tmp_path):
    found = tmp_path / "found"
    assert refused(predict_tool, checkpoint, tmp_path / "gone.png", "--output", found) == (
        f"{tmp_path / 'gone.png'}: no such image or folder"
    )
    (tmp_path / "empty").mkdir()
    message = refused(predict_tool, checkpoint, tmp_path / "empty", "--output", found)
    assert message.startswith(f"{tmp_path / 'empty'}: holds no image; looked for .bmp, ")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"hello, no image")
    message = refused(predict_tool, checkpoint, broken, "--output", found)
    assert message.startswith(f"{broken}: not an image") and "\n" not in message


def test_predict_on_a_cut_off_image(refused, checkpoint, shapes, tmp_path):
    whole = sorted((shapes / "val").iterdir())[0]
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-500])
    message = refused(predict_tool, checkpoint, whole, cut, "--output", tmp_path / "found")
    assert message.startswith(f"{cut}: damaged or cut-off PNG") and "\n" not in message


def test_predict_does_not_draw_over_the_images(refused, checkpoint, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    Image.new("RGB", (64, 64)).save(mine / "a.png")
    before = (mine / "a.png").read_bytes()
    message = refused(predict_tool, checkpoint, mine, "--output", tmp_path / "mine" / ".." / "mine")
    assert "a.png: is there already, and no earlier prediction wrote it; name another folder" in message
    assert (mine / "a.png").read_bytes() == before


def test_predict_output_that_cannot_be_written(refused, checkpoint, shapes, tmp_path):
    (tmp_path / "file").touch()
    message = refused(predict_tool, checkpoint, shapes / "val", "--output", tmp_path / "file")
    assert message.startswith(f"{tmp_path / 'file'}: cannot be written to: ")


@pytest.mark.parametrize("option", ["--batch-size", "--limit"])
@pytest.mark.parametrize("number", ["0", "-3", "2.5", "x"])
def test_predict_numbers(capsys, checkpoint, shapes, tmp_path, option, number):
    with pytest.raises(SystemExit) as stop:
        predict_tool.main([str(checkpoint), str(shapes / "val"), "--output", str(tmp_path), option, number])
    assert stop.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


# ---- as a command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tools/train.py", "quickstart", "train.epohs=3"], "train.epohs: unknown key; did you mean 'epochs'?"),
        (["-m", "retinanet", "train", "quickstart", "train.epochs=[1"], "the value cannot be read as YAML: line 1"),
        (["tools/eval.py", "README"], "README: no such checkpoint"),
    ],
)
def test_real_command(arguments, message, tmp_path):
    command = [sys.executable, *(str(REPO / a) if a.startswith("tools/") else a for a in arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


# ---- how a tool ends


def test_exit_codes(capsys):
    def wrong():
        raise InputError("a: is wrong")

    def interrupted():
        raise KeyboardInterrupt

    def bug():
        raise ValueError("a bug")

    assert exit_code(lambda: "anything") == 0
    assert capsys.readouterr().err == ""
    assert exit_code(wrong) == 2
    assert capsys.readouterr().err == "error: a: is wrong\n"
    assert exit_code(interrupted) == 130
    with pytest.raises(ValueError, match="a bug"):  # ours, not the user's: with its traceback
        exit_code(bug)


def test_make_folder(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir() and list((tmp_path / "a" / "b").iterdir()) == []
