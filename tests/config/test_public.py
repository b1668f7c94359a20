"""The public form of a config: no path in any key, and nothing else changed."""

import json
from pathlib import Path

import pytest

from retinanet.config import Config, TrainConfig
from retinanet.config.flat import flat_config
from retinanet.config.keys import schema_keys
from retinanet.config.load import with_overrides
from retinanet.config.paths import is_path_key
from retinanet.config.public import LOCAL_FILE, public_config, public_name

DEFAULT = Config(train=TrainConfig(steps=1))
PATHS = ("/home/alice/private.pth", "C:\\Users\\alice\\private.pth", "../alice/private", "private.pth")


def with_keys(*overrides: str) -> Config:
    return with_overrides(DEFAULT, overrides, source="test")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", sorted(key for key in schema_keys() if is_path_key(key)))
def test_no_path_key_keeps_its_path(key, path):
    """The keys come from the schema, so a new key is tested, too."""
    quoted = json.dumps(path)
    source = {"data.train.images": "data.train.annotations=a", "data.val.images": "data.val.annotations=a"}
    overrides = [source[key]] if key in source else []
    if key.startswith("data.val"):
        overrides.append("data.train=train.json")
    shared = public_config(with_keys(*overrides, f"{key}={quoted}")).model_dump_json()
    assert "private" not in shared and "alice" not in shared


@pytest.mark.parametrize("name", ["imagenet", "IMAGENET1K_V2", "none"])
def test_names_of_weights_stay(name):
    frozen = ["model.backbone.frozen_stages=0"]
    assert public_config(with_keys(*frozen, f"model.backbone.weights={name}")).model.backbone.weights == name


def test_path_of_initial_weights_is_replaced():
    cfg = public_config(with_keys("model.backbone.weights=/home/alice/r50.pth", "train.init_from=runs/a/best.pt"))
    assert (cfg.model.backbone.weights, cfg.train.init_from) == (LOCAL_FILE, LOCAL_FILE)


def test_keys_that_concern_neither_data_nor_this_machine_are_kept():
    changed = ["data.resize.shorter=[64, 96]", "data.resize.longer=128", "data.bands=[3, 2, 1]", "train.seed=5"]
    changed += ["postprocess.nms_iou=0.6", "model.class_precision=fp32", "inference.precision=fp32", "data.workers=0"]
    private = ["data.train=/home/alice/a.json", "data.val_fraction=0.1", "data.val_group=^(alice_.*)_", "device=cuda:3"]
    private += ["data.allow_outside_paths=true"]
    before = flat_config(with_keys(*changed, *private))
    after = flat_config(public_config(with_keys(*changed, *private)))
    assert {key for key in before if before[key] != after[key]} == {override.split("=")[0] for override in private}
    assert after == flat_config(with_keys(*changed))


def test_public_config_of_a_public_config_is_the_same():
    cfg = public_config(with_keys("model.backbone.weights=/home/alice/r50.pth"))
    assert public_config(cfg) == cfg


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/cells/train.json", "train.json"),
        ("datasets/cells/", "cells"),
        ("C:\\data\\train.json", "train.json"),
        ("train.json", "train.json"),
        ("/home/alice/train.json", "train.json"),
        ("/home/alice", None),
        ("/home/alice/alice_cells.json", None),
        ("C:\\Users\\Bob Lee\\bob lee", None),
        ("/", None),
    ],
)
def test_name_of_data_has_no_folder_and_no_user(path, name):
    assert public_name(path) == name


def test_name_of_this_user_or_computer_is_left_out(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "carol")
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-7.lab.example")
    monkeypatch.setattr(Path, "home", lambda: Path("/root/dave"))
    names = {name: public_name(f"/data/{name}") for name in ("carol-v2.json", "dave.json", "gpu-7", "carolina.json")}
    assert names == {"carol-v2.json": None, "dave.json": None, "gpu-7": None, "carolina.json": "carolina.json"}
