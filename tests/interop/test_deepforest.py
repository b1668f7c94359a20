import json

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.detection import retinanet_resnet50_fpn

from retinanet.config import PostprocessConfig
from retinanet.errors import InputError
from retinanet.interop.detector import read_detector
from retinanet.interop.torchvision import import_torchvision

# As on DeepForest's page on the Hugging Face hub.
TREES = {
    "architecture": "retinanet",
    "label_dict": {"Tree": 0},
    "nms_thresh": 0.05,
    "num_classes": 1,
    "score_thresh": 0.1,
}


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=1)
    return {name: value for name, value in theirs.state_dict().items() if "num_batches" not in name}


def write_folder(folder, state, config, prefix=""):
    save_file({prefix + name: value for name, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def assert_same_weights(detector, state):
    expected = import_torchvision(state, source="expected").state
    assert list(detector.state) == list(expected)
    assert all(torch.equal(detector.state[name], value) for name, value in expected.items())


@pytest.mark.parametrize("prefix", ["", "model."], ids=["version 2", "version 1"])
@pytest.mark.parametrize("form", ["{}", "deepforest:{}", "{}/model.safetensors", "deepforest:{}/model.safetensors"])
def test_folder_of_the_hub_is_read_with_its_labels_and_thresholds(tmp_path, state, prefix, form):
    write_folder(tmp_path, state, TREES, prefix)
    detector = read_detector(form.format(tmp_path))
    assert detector.class_names == ("Tree",) and detector.are_classes_named and detector.category_ids == (1,)
    assert detector.postprocess.nms_iou == 0.05 and detector.postprocess.min_score == 0.1
    assert detector.postprocess.max_detections == 300 and detector.model.backbone.norm_eps == 1e-5
    assert detector.resize.shorter == (800,) and detector.model.anchors.rounding == "torchvision"
    assert_same_weights(detector, state)


def test_labels_may_be_in_any_order_and_thresholds_are_read(tmp_path):
    torch.manual_seed(0)
    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3).state_dict()
    config = {"label_dict": {"Alive": 1, "Dead": 0, "Fallen": 2}, "nms_thresh": 0.2, "score_thresh": 0.3}
    write_folder(tmp_path, theirs, {**config, "detections_per_img": 50, "topk_candidates": 200})
    detector = read_detector(f"deepforest:{tmp_path}")
    assert detector.class_names == ("Dead", "Alive", "Fallen")
    expected = PostprocessConfig(min_score=0.3, top_k=200, nms_iou=0.2, max_detections=50)
    assert detector.postprocess == expected


@pytest.mark.parametrize("suffix", ["pl", "ckpt", "pt"])
@pytest.mark.parametrize("place", [(), ("hyper_parameters",)])
def test_checkpoint_of_lightning_is_read(tmp_path, state, place, suffix):
    content = {"state_dict": {f"model.{name}": value for name, value in state.items()}, "epoch": 3, "global_step": 100}
    labels = {"label_dict": {"Bird": 0}}
    content |= {place[0]: labels} if place else labels
    torch.save(content, tmp_path / f"bird.{suffix}")
    detector = read_detector(str(tmp_path / f"bird.{suffix}"))
    assert detector.class_names == ("Bird",) and detector.postprocess.nms_iou == 0.05
    assert_same_weights(detector, state)


def test_bare_state_dict_has_no_labels(tmp_path, state):
    torch.save({f"model.{name}": value for name, value in state.items()}, tmp_path / "NEON.pt")
    named = read_detector(f"deepforest:{tmp_path / 'NEON.pt'}")
    assert not named.are_classes_named and named.postprocess.nms_iou == 0.05
    unnamed = read_detector(str(tmp_path / "NEON.pt"))  # taken for torchvision's
    assert not unnamed.are_classes_named and unnamed.postprocess.nms_iou == 0.5
    assert_same_weights(unnamed, state)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json: is not JSON"),
        (json.dumps(TREES | {"label_dict": {"Tree": 0, "Bird": 1}}), "has 1 classes, but 2 names: Tree, Bird"),
        (json.dumps(TREES | {"nms_thresh": 7}), "invalid thresholds in its config"),
        (json.dumps(TREES | {"nms_thresh": None}), "invalid thresholds in its config"),
    ],
)
def test_config_that_does_not_fit_is_refused(tmp_path, state, config, message):
    write_folder(tmp_path, state, {})
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=message):
        read_detector(f"deepforest:{tmp_path}")
