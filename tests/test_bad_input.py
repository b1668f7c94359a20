"""User errors: every command exits with code 2 and prints one message on stderr, without a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from retinanet.cli import eval as eval_tool
from retinanet.cli import predict as predict_tool
from retinanet.cli import train as train_tool
from tests.helpers.checkpoints import untrained_checkpoint

REPO = Path(__file__).resolve().parent.parent


pytestmark = pytest.mark.usefixtures("restore_process_settings")


@pytest.fixture
def rejected(capsys):
    """Run a command that must reject its input, and return the error message."""

    def run(command, *arguments):
        assert command.main([str(argument) for argument in arguments]) == 2
        printed = capsys.readouterr()
        message = printed.err.rpartition("\r")[2]  # drop the rest of a progress bar
        assert message.startswith("error: ") and message.endswith("\n")
        assert printed.err.count("error: ") == 1
        assert "Traceback" not in printed.err + printed.out
        assert "InputError" not in printed.err and ".py" not in printed.err
        return message.removeprefix("error: ").rstrip("\n")

    return run


@pytest.fixture
def train_rejected(rejected, tiny_overrides, tmp_path):
    """Run the quickstart training with further arguments, which must be rejected before training."""

    def run(*arguments):
        before = sorted(tmp_path.rglob("*"))
        message = rejected(train_tool, "quickstart", *tiny_overrides, "--output", tmp_path / "run", *arguments)
        assert sorted(tmp_path.rglob("*")) == before  # no run folder is left behind
        return message

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, shapes):
    return untrained_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints", shapes)


@pytest.fixture
def not_a_checkpoint(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("hello, these are not weights\n" * 10)
    return path


def changed(shapes, tmp_path, change):
    """Write a changed copy of the training annotations."""
    document = json.loads((shapes / "train.json").read_text())
    change(document)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(document))
    return path


# ---- train


def test_missing_config(rejected, tmp_path):
    assert rejected(train_tool, "quikstart") == (
        "quikstart: neither a file nor a bundled config; did you mean quickstart?"
    )
    assert rejected(train_tool, tmp_path / "mine.yaml").startswith(f"{tmp_path / 'mine.yaml'}: neither a file nor")


def test_invalid_keys_in_the_config(rejected, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {epochs: 1, batchsize: 3, optimizer: {type: sgd, lr: fast}}\n")
    assert rejected(train_tool, path, "--output", tmp_path / "run").splitlines() == [
        f"{path}: 2 problem(s) in the config",
        '  train.optimizer.lr: found "fast" (text), expected a number',
        "  train.batchsize: unknown key; did you mean 'batch_size'?",
    ]
    assert not (tmp_path / "run").exists()


def test_invalid_override(train_rejected):
    assert train_rejected("train.batch_size=2.5").endswith(
        "train.batch_size: found 2.5 (number), expected a whole number"
    )
    assert train_rejected("batch_size").startswith("override 'batch_size': expected KEY.KEY=VALUE")


def test_binary_file_as_config(rejected, checkpoint, tmp_path):
    message = rejected(train_tool, checkpoint, "--output", tmp_path / "run")
    assert message.startswith(str(checkpoint)) and "\n" not in message


def test_config_without_data(rejected, tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {epochs: 1}\n")
    message = rejected(train_tool, tmp_path / "mine.yaml", "--output", tmp_path / "run", "device=cpu")
    assert message == "data.train: not set; set data.train=PATH to an annotation file or a dataset folder"


def test_missing_annotations(train_rejected):
    assert train_rejected("data.train.annotations=gone.json").startswith("gone.json: cannot be read: No such file")
    assert train_rejected("data.val.annotations=gone.json").startswith("gone.json: cannot be read: No such file")


def test_annotations_in_another_format(train_rejected, tmp_path):
    (tmp_path / "some.json").write_text('{"shapes": [], "imagePath": "a.png"}')
    assert "one image in labelme format" in train_rejected(f"data.train.annotations={tmp_path / 'some.json'}")


def test_missing_images(train_rejected, shapes, tmp_path):
    assert "data.train.images: gone is not a folder" in train_rejected("data.train.images=gone")
    (tmp_path / "empty").mkdir()
    assert "24 of 24 images are not in" in train_rejected(f"data.train.images={tmp_path / 'empty'}")


def test_num_classes_that_contradicts_the_data(train_rejected):
    message = train_rejected("model.num_classes=80")
    assert message.startswith("model.num_classes: is 80, but ") and "has " in message and "classes [" in message


def test_unknown_class(train_rejected, shapes):
    name = json.loads((shapes / "train.json").read_text())["categories"][0]["name"]
    message = train_rejected(f"data.classes=[{name}x]")
    assert message.startswith(f"data.classes: '{name}x' is not a category of ")
    assert message.endswith(f"did you mean '{name}'?")


def test_box_without_area_with_data_strict(train_rejected, shapes, tmp_path):
    path = changed(shapes, tmp_path, lambda d: d["annotations"][0].update(bbox=[4, 4, 0, 4]))
    message = train_rejected(f"data.train.annotations={path}", "data.strict=true")
    assert "1 box(es) without area, expected" in message and "[4.0, 4.0, 0.0, 4.0]" in message


def test_image_size_that_contradicts_the_annotations(rejected, tiny_overrides, shapes, tmp_path):
    def grow(document):
        for image in document["images"]:
            image["width"] += 1

    path = changed(shapes, tmp_path, grow)
    arguments = [*tiny_overrides, f"data.train.annotations={path}", "--output", tmp_path / "run"]
    assert "but annotated as" in rejected(train_tool, "quickstart", *arguments)


def test_unknown_device(train_rejected):
    assert train_rejected("device=gpu").startswith("device: gpu cannot be used: ")


def test_output_folder_with_another_run(train_rejected, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("kept")
    (tmp_path / "run" / "environment.json").write_text("{}")
    assert train_rejected() == (
        f"{tmp_path / 'run'}: contains a run; it has not saved a checkpoint, replace it with --overwrite, or choose "
        "another folder"
    )
    assert (tmp_path / "run" / "config.yaml").read_text() == "kept"


@pytest.mark.parametrize("below", [".", "run"])
def test_output_folder_that_is_not_writable(rejected, tiny_overrides, tmp_path, below):
    (tmp_path / "file").write_text("kept")
    output = tmp_path / "file" / below
    message = rejected(train_tool, "quickstart", *tiny_overrides, "--output", output)
    assert message.startswith(f"{output}: cannot be written to: ") and message.endswith("; choose another folder")
    assert (tmp_path / "file").read_text() == "kept"


# ---- eval


def test_eval_of_files_that_are_not_checkpoints(rejected, not_a_checkpoint, tmp_path):
    assert rejected(eval_tool, tmp_path / "gone.pt").startswith(f"{tmp_path / 'gone.pt'}: no such checkpoint; ")
    message = rejected(eval_tool, not_a_checkpoint)
    start = f"{not_a_checkpoint}: not a retinanet checkpoint: it is not a torch.save archive; "
    assert message.startswith(start)
    assert message.endswith("pass a checkpoint written by `retinanet train`")
    torch.save({"model": {}}, tmp_path / "other.pt")
    assert "not a 'retinanet checkpoint 4'" in rejected(eval_tool, tmp_path / "other.pt")


def test_eval_of_a_damaged_checkpoint(rejected, checkpoint, tmp_path):
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    copy = tmp_path / checkpoint.name
    copy.write_bytes(content)
    (tmp_path / f"{copy.name}.sha256").write_bytes(checkpoint.with_name(checkpoint.name + ".sha256").read_bytes())
    assert rejected(eval_tool, copy).startswith(f"{copy}: damaged: checksum differs from ")


def test_eval_with_invalid_overrides(rejected, checkpoint):
    message = rejected(eval_tool, checkpoint, "data.vall.images=x")
    assert message.startswith(f"{checkpoint} with overrides: 1 problem(s)")
    assert message.endswith("data.vall: unknown key; did you mean 'val'?")
    assert rejected(eval_tool, checkpoint, "data.val=[]").startswith("data.val: not set; ")
    assert "gone.json: cannot be read" in rejected(eval_tool, checkpoint, "data.val.annotations=gone.json")


def test_eval_on_different_categories(rejected, checkpoint, tmp_path):
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "cats.json").write_text(json.dumps(document))
    message = rejected(eval_tool, checkpoint, f"data.val.annotations={tmp_path / 'cats.json'}")
    assert message.startswith(f"data.val: the categories of {tmp_path / 'cats.json'} do not match the classes ")


def test_eval_output_is_checked_before_the_evaluation(rejected, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "retinanet.engine.evaluate_checkpoint.evaluate_dataset",
        lambda *_, **__: pytest.fail("evaluated before the output was checked"),
    )
    (tmp_path / "file").touch()
    message = rejected(eval_tool, checkpoint, "--output", tmp_path / "file")
    assert message.startswith(f"{tmp_path / 'file'}: cannot be written to: ")


# ---- predict


def test_predict_with_a_file_that_is_not_a_checkpoint(rejected, not_a_checkpoint, shapes, tmp_path):
    message = rejected(predict_tool, not_a_checkpoint, shapes / "val", "--output", tmp_path / "output")
    assert "not a retinanet checkpoint" in message
    assert not (tmp_path / "output").exists()


def test_predict_on_missing_and_invalid_images(rejected, checkpoint, tmp_path):
    output = tmp_path / "output"
    assert rejected(predict_tool, checkpoint, tmp_path / "gone.png", "--output", output) == (
        f"{tmp_path / 'gone.png'}: no such file or folder"
    )
    (tmp_path / "empty").mkdir()
    message = rejected(predict_tool, checkpoint, tmp_path / "empty", "--output", output)
    assert message.startswith(f"{tmp_path / 'empty'}: contains no images or videos; expected files such as .jpg")
    message = rejected(predict_tool, checkpoint, tmp_path / "a*.png", "--output", output)
    assert message.startswith(f"{tmp_path / 'a*.png'}: matches no image or video; expected files such as .jpg")
    assert not output.exists()


def test_predict_does_not_overwrite_its_input_images(rejected, checkpoint, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    Image.new("RGB", (64, 64)).save(mine / "a.png")
    before = (mine / "a.png").read_bytes()
    message = rejected(predict_tool, checkpoint, mine, "--output", tmp_path / "mine" / ".." / "mine")
    assert "a.png: is one of the images to predict on and will not be overwritten; choose another --output" in message
    assert [path.name for path in mine.iterdir()] == ["a.png"]
    assert (mine / "a.png").read_bytes() == before


def test_predict_output_folder_that_is_not_writable(rejected, checkpoint, shapes, tmp_path):
    (tmp_path / "file").touch()
    message = rejected(predict_tool, checkpoint, shapes / "val", "--output", tmp_path / "file")
    assert message.startswith(f"{tmp_path / 'file'}: cannot be written to: ")


@pytest.mark.parametrize("option", ["--batch-size", "--limit"])
@pytest.mark.parametrize("number", ["0", "-3", "2.5", "x"])
def test_predict_rejects_counts_below_1(capsys, checkpoint, shapes, tmp_path, option, number):
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
def test_errors_of_real_processes(arguments, message, tmp_path):
    command = [sys.executable, *(str(REPO / a) if a.startswith("tools/") else a for a in arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and message in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
