"""Every kind of source that `read_pretrained` accepts, recognised by its content."""

import json

import pytest
import torch
from safetensors.torch import save_file

from retinanet.checkpoint.file import write_checkpoint
from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor
from retinanet.interop import pretrained
from retinanet.interop.export_file import write_export
from retinanet.interop.imported import ImportedDetector
from retinanet.interop.initial_weights import read_initial_weights
from retinanet.interop.pretrained import read_pretrained
from retinanet.interop.torchvision import export_torchvision
from retinanet.model.retinanet import build_model
from tests.helpers.published import NAMES, assert_bit_identical, detector, noise, published

SMALL = (
    "model.backbone.name=resnet18",
    "model.head_convs=4",
    "model.head_norm=none",
    "model.anchors.rounding=torchvision",
)


@pytest.fixture(scope="module")
def checkpoint():
    return detector(*SMALL)


def assert_same(found, checkpoint):
    expected = checkpoint.weights()
    assert found and all(torch.equal(value, expected[name]) for name, value in found.items())


def test_published_folder_and_checkpoint(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "model.pt", checkpoint)
    folder = published(tmp_path / "out", checkpoint)
    for source in (folder, str(folder), tmp_path / "model.pt"):
        found = read_pretrained(source)
        assert found.class_names == NAMES
        assert_same(found.weights(), checkpoint)


def test_file_of_another_framework(checkpoint, tmp_path):
    write_export(tmp_path / "model.pth", checkpoint, "torchvision")
    for source in (tmp_path / "model.pth", f"torchvision:{tmp_path / 'model.pth'}"):
        found = read_pretrained(source)
        assert found.class_names == ("class 0", "class 1", "class 2")
        assert_same(found.weights(), checkpoint)
    assert len(Predictor.from_pretrained(tmp_path / "model.pth", ["device=cpu"])(noise(64, 64))) > 0


def test_folder_of_deepforest(checkpoint, tmp_path, monkeypatch):
    """On the hub, it has files of the same names as ours."""
    folder = tmp_path / "weecology" / "tree"
    folder.mkdir(parents=True)
    save_file(
        {f"model.{name}": value for name, value in export_torchvision(checkpoint).items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps({"label_dict": {"oak": 1, "fir": 0, "ash": 2}, "nms_thresh": 0.4}))
    monkeypatch.setattr(pretrained, "download", lambda hub_id, *, revision: tmp_path / hub_id)
    for source in (folder, "weecology/tree"):
        found = read_pretrained(source)
        assert (found.class_names, found.config.postprocess.nms_iou) == (("fir", "oak", "ash"), 0.4)
        assert_same(found.weights(), checkpoint)


def test_name_of_a_framework(checkpoint, monkeypatch):
    cfg = checkpoint.config
    imported = ImportedDetector(
        source="x", model=cfg.model, resize=cfg.data.resize, postprocess=cfg.postprocess,
        class_names=NAMES, category_ids=(1, 2, 3), state=checkpoint.weights(),
    )  # fmt: skip
    monkeypatch.setattr(pretrained, "read_detector", {"torchvision:retinanet_resnet50_fpn": imported}.__getitem__)
    overrides = ["device=cpu", "inference.precision=fp32"]
    found = Predictor.from_pretrained("torchvision:retinanet_resnet50_fpn", overrides)
    model = build_model(cfg.model, len(NAMES))
    model.load_state_dict(checkpoint.weights())
    expected = Predictor(model, NAMES, (1, 2, 3), cfg)
    assert found.category_ids == (1, 2, 3)
    assert_bit_identical(found(noise(64, 64)), expected(noise(64, 64)))


def test_sources_that_are_none_of_these(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for source, message in (
        (tmp_path / "photos", r"photos/config\.json: cannot be read: No such file .*written by `retinanet publish`"),
        (tmp_path / "gone" / "x" / "y", r"y/config\.json: cannot be read: No such file"),
        (tmp_path / "notes.txt", r"notes\.txt: not a file of weights"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no such file or detector"),
        (3, "found int, expected a published folder or the id of one on a hub"),
    ):
        with pytest.raises(InputError, match=message):
            read_pretrained(source)


def test_damaged_folder_is_not_mistaken_for_that_of_another_program(checkpoint, tmp_path):
    folder = published(tmp_path / "out", checkpoint)
    (folder / "config.json").write_text((folder / "config.json").read_text()[:100])
    with pytest.raises(InputError, match=r"config\.json: damaged: not valid JSON"):
        read_pretrained(folder)


def test_training_starts_from_a_published_folder_with_its_classes(checkpoint, tmp_path):
    weights = read_initial_weights(str(published(tmp_path / "out", checkpoint)))
    assert (weights.class_names, weights.model) == (NAMES, checkpoint.config.model)
    assert_same(weights.state, checkpoint)
