"""`config.json` of a published folder: strict, versioned, and read without torch."""

import json
import subprocess
import sys

import pytest

from retinanet import __version__
from retinanet.config.load import load_config
from retinanet.errors import InputError
from retinanet.interop.published_config import CONFIG_FILE, FORMAT, is_published, read_published_config
from tests.helpers.checkpoints import filled
from tests.helpers.processes import ENVIRONMENT, REPO
from tests.helpers.published import published


@pytest.fixture
def folder(tmp_path):
    return published(tmp_path / "out", filled(3)._replace(thresholds=(0.5, None)))


def change(folder, **values):
    """Change keys of the file; None removes a key."""
    file = folder / CONFIG_FILE
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def message_of(folder):
    with pytest.raises(InputError) as caught:
        read_published_config(folder)
    return str(caught.value).removeprefix(f"{folder}/")


def test_content_is_complete_and_readable(folder):
    values = json.loads((folder / CONFIG_FILE).read_text())
    named = ("format", "retinanet", "class_names", "category_ids", "thresholds", "step")
    assert {name: values[name] for name in named} == {
        "format": FORMAT,
        "retinanet": __version__,
        "class_names": ["cat", "dog"],
        "category_ids": [3, 7],
        "thresholds": [0.5, None],
        "step": 3,
    }
    assert values["config"]["model"]["anchors"]["sizes"] == [32, 64, 128, 256, 512]
    assert values["config"]["model"]["mean"] == [123.675, 116.28, 103.53]
    assert values["config"]["data"]["resize"]["longer"] == 1333
    assert values["config"]["postprocess"]["nms_iou"] == 0.5


def test_missing_config_key_takes_its_default(folder):
    values = json.loads((folder / CONFIG_FILE).read_text())
    del values["config"]["postprocess"]["max_detections"]
    change(folder, config=values["config"])
    assert read_published_config(folder).config.postprocess.max_detections == 100


def test_unknown_key_of_the_config_is_named_with_the_versions(folder):
    values = json.loads((folder / CONFIG_FILE).read_text())
    values["config"]["postprocess"]["soft_nms"] = True
    change(folder, config=values["config"])
    assert message_of(folder).startswith(f"{CONFIG_FILE}: config: 1 problem(s) in the config\n  postprocess.soft_nms")
    assert "written by" not in message_of(folder)
    change(folder, retinanet="9.1.0")
    assert message_of(folder).endswith(f"\n  it was written by retinanet 9.1.0, this is {__version__}")


def test_newer_format_names_the_version_to_use(folder):
    change(folder, format="retinanet model 2", retinanet="9.1.0")
    assert message_of(folder) == (
        f"{CONFIG_FILE}: found format 'retinanet model 2', expected '{FORMAT}'; it was written by retinanet 9.1.0, "
        f"this is {__version__}: use a newer version"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": None}, "found no format 'retinanet model 1'; another program wrote this file; pass a folder"),
        ({"format": 1}, "found no format 'retinanet model 1'"),
        ({"extra": 1}, "extra: Extra inputs are not permitted; it was written by retinanet"),
        ({"class_names": None}, "class_names: Field required"),
        ({"class_names": []}, "class_names: "),
        ({"class_names": ["cat"]}, "classes: Value error, 1 class_names but 2 category_ids"),
        ({"category_ids": [3, "7"]}, "category_ids.1: Input should be a valid integer"),
        ({"thresholds": [0.5]}, "classes: Value error, 2 class_names but 1 thresholds"),
        ({"thresholds": [0.5, 1.5]}, "thresholds.1: Input should be less than or equal to 1"),
        ({"sha256": "0"}, "sha256: String should match pattern"),
        ({"step": -1}, "step: Input should be greater than or equal to 0"),
        ({"config": 3}, "config: found 3, expected a mapping"),
        ({"config": None}, "config: found None, expected a mapping"),
        ({"config": {}}, "config: 1 problem(s) in the config\n  train: missing"),
    ],
)
def test_invalid_values_are_refused_by_key(folder, values, message):
    file = folder / CONFIG_FILE
    content = json.loads(file.read_text()) | values
    removed = [name for name, value in values.items() if value is None]
    file.write_text(json.dumps({name: value for name, value in content.items() if name not in removed}))
    assert message_of(folder).startswith(f"{CONFIG_FILE}: {message}")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00", '{"format": '])
def test_damaged_json_is_an_input_error(folder, text):
    (folder / CONFIG_FILE).write_text(text)
    assert message_of(folder) == (
        f"{CONFIG_FILE}: damaged: not valid JSON; publish the model or download the folder again"
    )


def test_huge_file_is_not_read(folder):
    (folder / CONFIG_FILE).write_bytes(b" " * 10_000_001)
    assert "another program wrote this file" in message_of(folder)


def test_folders_that_are_not_published(folder, tmp_path):
    assert is_published(folder)
    (tmp_path / "empty").mkdir()
    assert not is_published(tmp_path / "empty")
    assert not is_published(folder / CONFIG_FILE)
    assert not is_published(tmp_path / "gone")


def test_config_is_read_without_torch(folder):
    code = (
        "import sys; from pathlib import Path; from retinanet.interop.published_config import read_published_config; "
        f"print(read_published_config(Path({str(folder)!r})).class_names, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "('cat', 'dog') False\n", done.stderr


def test_quickstart_config_survives(tmp_path):
    checkpoint = filled(1)._replace(config=load_config("quickstart", ["data.train=[]", "data.val=[]"]))
    found = read_published_config(published(tmp_path / "out", checkpoint)).config
    assert found == checkpoint.config
