"""Files of weights for other frameworks: readable by them, and bit-identical when imported again."""

import pickle

import numpy as np
import pytest
import torch
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import AnchorConfig, Config, TrainConfig
from retinanet.errors import InputError
from retinanet.interop.detector import read_detector
from retinanet.interop.export_file import write_export
from retinanet.model.retinanet import build_model
from tests.helpers.models import model_config

NAMES = ("cat", "dog")


def checkpoint_for(framework, **settings):
    """A checkpoint of a ResNet-18 detector that a framework can represent, with an average of its weights."""
    rounding = "torchvision" if framework == "torchvision" else "none"
    model = model_config(name="resnet18", norm="frozen", anchors=AnchorConfig(rounding=rounding), **settings)
    torch.manual_seed(0)
    first, second = (build_model(model, len(NAMES)).state_dict() for _ in range(2))
    state = {"model": first, "ema": {"model": second}}
    return Checkpoint(Config(model=model, train=TrainConfig(steps=1)), NAMES, (1, 2), 5, state)


@pytest.mark.parametrize(
    ("framework", "suffix"), [("torchvision", ".pth"), ("detectron2", ".pth"), ("detectron2", ".pkl")]
)
def test_import_of_an_exported_file_is_bit_identical(tmp_path, framework, suffix):
    checkpoint = checkpoint_for(framework)
    file = tmp_path / "new" / f"model{suffix}"
    write_export(file, checkpoint, framework)
    assert list(file.parent.iterdir()) == [file]
    found, expected = read_detector(str(file)).state, checkpoint.weights()
    assert {name for name in expected if not name.endswith("num_batches_tracked")} <= set(found)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_torchvision_loads_its_file_strictly(tmp_path):
    write_export(tmp_path / "model.pth", checkpoint_for("torchvision"), "torchvision")
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(512, 256)
    )
    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in (32, 64, 128, 256, 512))
    model = RetinaNet(backbone, len(NAMES), anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5))
    model.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))


def test_detectron2_recognises_its_pickle(tmp_path):
    """Its checkpointer unpickles with latin1, and takes `model` as it is if there is an author."""
    checkpoint = checkpoint_for("detectron2", channels=64)
    write_export(tmp_path / "model.pkl", checkpoint, "detectron2")
    with open(tmp_path / "model.pkl", "rb") as file:
        data = pickle.load(file, encoding="latin1")
    assert set(data) == {"model", "__author__"}
    assert all(type(value) is np.ndarray for value in data["model"].values())
    assert "backbone.bottom_up.stem.conv1.weight" in data["model"]
    write_export(tmp_path / "model.pth", checkpoint, "detectron2")
    assert list(torch.load(tmp_path / "model.pth", weights_only=True)) == ["model"]


def test_detector_that_a_framework_cannot_represent_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model\.anchors\.rounding is torchvision: Detectron2 cannot represent"):
        write_export(tmp_path / "model.pkl", checkpoint_for("torchvision"), "detectron2")
    assert list(tmp_path.iterdir()) == []


def test_existing_file_and_other_suffixes_are_refused(tmp_path):
    (tmp_path / "model.pth").write_text("mine")
    with pytest.raises(InputError, match=r"model\.pth: exists; choose another --output"):
        write_export(tmp_path / "model.pth", checkpoint_for("torchvision"), "torchvision")
    assert (tmp_path / "model.pth").read_text() == "mine"
    with pytest.raises(InputError, match=r"model\.pkl: found the suffix '\.pkl', expected \.pth for a file of torchv"):
        write_export(tmp_path / "model.pkl", checkpoint_for("torchvision"), "torchvision")
    with pytest.raises(InputError, match=r"out: found the suffix '', expected \.pkl or \.pth .*, such as .*out\.pkl"):
        write_export(tmp_path / "out", checkpoint_for("detectron2"), "detectron2")


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("retinanet.interop.export_file.sync", lambda file: (_ for _ in ()).throw(OSError(28, "Full")))
    with pytest.raises(InputError, match=r"model\.pth: cannot be written: Full"):
        write_export(tmp_path / "model.pth", checkpoint_for("torchvision"), "torchvision")
    assert list(tmp_path.iterdir()) == []
