import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import AnchorConfig, Config, LossConfig, SoftmaxFocalConfig, TrainConfig
from retinanet.data.synthetic.scene import draw_image
from retinanet.detection.postprocess import build_postprocess
from retinanet.errors import InputError
from retinanet.interop.detector import read_detector
from retinanet.interop.detectron2 import export_detectron2, import_detectron2
from retinanet.model.retinanet import build_model
from tests.helpers.detectron2_network import cell, detections_of, outputs_of
from tests.helpers.detectron2_weights import retinanet_shapes, rule_weights
from tests.helpers.models import model_config

DATA = Path(os.environ.get("RETINANET_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
RECORDED = DATA / "interop" / "detectron2_retinanet_r50.npz"
PHOTO = DATA / "coco_slice" / "val2017" / "000000000139.jpg"
MEAN_BGR = torch.tensor([103.53, 116.28, 123.675])


def weights(depth=50, num_classes=80, seed=0):
    shapes = retinanet_shapes(depth, num_classes)
    return {name: torch.from_numpy(value) for name, value in rule_weights(shapes, seed).items()}


@pytest.fixture(scope="module")
def state():
    """Weights of a ResNet-50 with three classes; no test changes them."""
    return weights(num_classes=3)


def run(detector, image):
    """Outputs and detections of an imported detector for an image (3, H, W), which is padded but not resized."""
    model = build_model(detector.model, len(detector.class_names)).eval()
    model.load_state_dict(detector.state)
    height, width = image.shape[-2:]
    batch = torch.nn.functional.pad(image, (0, -width % 32, 0, -height % 32))[None]
    sizes = torch.tensor([[height, width]])
    with torch.no_grad():
        outputs = model(batch, sizes)
    return outputs, build_postprocess(detector.postprocess, background_logit=False)(outputs, sizes, sizes)[0]


def their_maps(outputs, values):
    """Logits or deltas per level as Detectron2's feature maps: (9 * values, H_l, W_l), anchors by (scale, ratio)."""
    levels = outputs.box_deltas if values == 4 else outputs.class_logits
    for level, anchors in zip(levels, outputs.anchors, strict=True):
        height, width = anchors.shape[:2]
        yield level.view(height, width, 3, 3, values).permute(3, 2, 4, 0, 1).reshape(9 * values, height, width)


@pytest.mark.skipif(not RECORDED.is_file(), reason="needs the data in RETINANET_DATA")
def test_outputs_and_detections_equal_those_recorded_from_detectron2(record_property):
    recorded = np.load(RECORDED)
    shapes = {}
    for key in recorded["keys"]:
        name, _, shape = str(key).partition(" ")
        shapes[name] = tuple(int(size) for size in re.findall(r"\d+", shape))
    assert shapes == retinanet_shapes()
    detector = import_detectron2(weights(seed=int(recorded["seed"])), source="recorded")
    assert_close(torch.tensor(detector.model.mean), torch.from_numpy(recorded["pixel_mean_bgr"]).flip(0))
    image = torch.from_numpy(np.array(Image.open(PHOTO).convert("RGB"))).permute(2, 0, 1)
    outputs, detections = run(detector, image)
    for kind, values in (("logits", 80), ("deltas", 4)):
        for level, found in enumerate(their_maps(outputs, values), start=3):
            expected = torch.from_numpy(recorded[f"{kind}_p{level}"])
            found = found[:: 37 if kind == "logits" else 1, ::4, ::4]
            assert_close(found, expected, rtol=1e-3, atol=1e-5, msg=lambda text, at=(kind, level): f"{at}: {text}")
            error = (found - expected).abs().max() / expected.abs().max()
            record_property(f"largest difference of {kind} on P{level} / largest value", f"{error:.1e}")
    for level, anchors in enumerate(outputs.anchors):
        ours = anchors[0, 0].view(3, 3, 4).transpose(0, 1).reshape(9, 4)
        assert_close(ours, torch.from_numpy(recorded["first_anchors"][level]), rtol=1e-5, atol=1e-4)
    assert len(detections) == len(recorded["scores"]) == 100
    assert detections.labels.tolist() == recorded["classes"].tolist()
    assert_close(detections.scores, torch.from_numpy(recorded["scores"]), rtol=1e-3, atol=0)
    assert_close(detections.boxes, torch.from_numpy(recorded["boxes"]), rtol=1e-3, atol=1e-2)
    error = (detections.boxes - torch.from_numpy(recorded["boxes"])).abs().max()
    record_property("largest difference of a box, pixels", f"{error:.1e}")


@pytest.mark.parametrize(("depth", "seed", "index"), [(50, 1, 0), (101, 2, 3)])
def test_outputs_and_detections_equal_those_of_an_independent_implementation(depth, seed, index):
    """Other seeds, another depth, other images and another number of classes, in float32 and in Detectron2's layout."""
    image = torch.from_numpy(draw_image(seed, "val", index)[0]).permute(2, 0, 1)[:, :101, :150].contiguous()
    theirs = weights(depth, num_classes=5, seed=seed)
    expected = outputs_of(theirs, image, MEAN_BGR)
    detector = import_detectron2(theirs, source="theirs")
    assert detector.model.backbone.name == f"resnet{depth}" and len(detector.class_names) == 5
    outputs, detections = run(detector, image)
    for values, maps in ((5, expected.logits), (4, expected.deltas)):
        for found, theirs_map in zip(their_maps(outputs, values), maps, strict=True):
            assert_close(found, theirs_map, rtol=1e-3, atol=1e-4)
            assert theirs_map.std() > 0.01
    reference = detections_of(expected, tuple(image.shape[-2:]))
    assert len(detections) == len(reference) == 100
    assert detections.labels.tolist() == [label for _, label, _ in reference]
    assert_close(detections.scores, torch.tensor([score for score, _, _ in reference]), rtol=1e-4, atol=1e-5)
    assert_close(detections.boxes, torch.tensor([box for _, _, box in reference]), rtol=1e-3, atol=0.02)


def test_import_export_and_import_are_bit_identical(state):
    detector = import_detectron2(state, source="first")
    back = export_detectron2(detector.checkpoint())
    assert set(back) == set(state)
    assert all(torch.equal(back[name], value) for name, value in state.items())
    again = import_detectron2(back, source="again")
    assert again.model == detector.model and list(again.state) == list(detector.state)
    assert all(torch.equal(again.state[name], value) for name, value in detector.state.items())


@pytest.mark.parametrize("how", ["pkl", "pth"])
def test_file_of_the_model_zoo_and_of_a_checkpointer_are_recognised(tmp_path, state, how):
    path = tmp_path / f"model_final.{how}"
    if how == "pkl":
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    else:
        torch.save({"model": state, "optimizer": {}, "iteration": 89999}, path)
    direct = import_detectron2(state, source="direct").state
    for source in (str(path), f"detectron2:{path}"):
        detector = read_detector(source)
        assert not detector.are_classes_named and detector.class_names == ("class 0", "class 1", "class 2")
        assert all(torch.equal(detector.state[name], value) for name, value in direct.items())


def test_buffers_of_older_versions_are_read(state):
    """Mean and standard deviation (BGR), anchors, and norms without statistics, as converted from Caffe2."""
    old = {name: value for name, value in state.items() if "running" not in name}
    old["pixel_mean"] = torch.tensor([100.0, 110.0, 120.0]).view(3, 1, 1)
    old["pixel_std"] = torch.tensor([57.0, 58.0, 59.0]).view(3, 1, 1)
    old |= {f"anchor_generator.cell_anchors.{level}": torch.tensor(cell(level + 3)) for level in range(5)}
    detector = import_detectron2(old, source="old")
    assert detector.model.mean == (120.0, 110.0, 100.0) and detector.model.std == (59.0, 58.0, 57.0)
    assert not detector.model.backbone.stride_in_1x1  # Detectron2's other ImageNet weights, those of torchvision
    assert torch.equal(detector.state["backbone.bn1.running_mean"], torch.zeros(64))
    assert_close(detector.state["backbone.bn1.running_var"] + 1e-5, torch.ones(64))
    exported = export_detectron2(detector.checkpoint())
    assert all(torch.equal(exported[name], old[name]) for name in ("pixel_mean", "pixel_std"))
    assert import_detectron2(exported, source="again").model == detector.model

    old["anchor_generator.cell_anchors.2"] = old["anchor_generator.cell_anchors.2"] * 2
    with pytest.raises(InputError, match="old: its anchors are not Detectron2's default"):
        import_detectron2(old, source="old")


def test_group_norm_in_the_head_is_imported(state):
    """Detectron2's `RETINANET.NORM: GN` puts a norm after each convolution, so layers are numbered 0, 1, 3, 4, ..."""
    grouped = {name: value for name, value in state.items() if "_subnet." not in name}
    for subnet in ("cls_subnet", "bbox_subnet"):
        for convolution in range(2):
            for kind in ("weight", "bias"):
                grouped[f"head.{subnet}.{3 * convolution}.{kind}"] = state[f"head.{subnet}.{2 * convolution}.{kind}"]
                grouped[f"head.{subnet}.{3 * convolution + 1}.{kind}"] = torch.full((256,), 1.0 + convolution)
    detector = import_detectron2(grouped, source="grouped")
    assert (detector.model.head_norm, detector.model.head_convs, detector.model.head_conv_bias) == ("group", 2, True)
    assert torch.equal(detector.state["head.box_subnet.4.weight"], torch.full((256,), 2.0))
    back = export_detectron2(detector.checkpoint())
    assert set(back) == set(grouped) and all(torch.equal(back[name], value) for name, value in grouped.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("head.bbox_pred.bias"), "has no head.bbox_pred.bias, so it is not a RetinaNet"),
        (lambda state: state.pop("backbone.fpn_output4.bias"), r"1 missing \(backbone.fpn_output4.bias\)"),
        (lambda state: state.update({"head.extra": torch.ones(2)}), r"1 unknown \(head.extra\)"),
        (lambda state: state.pop("backbone.bottom_up.res4.5.conv1.weight"), "its backbone is none of resnet18"),
        (
            lambda state: state.update(
                {"head.bbox_pred.bias": torch.ones(12), "head.bbox_pred.weight": torch.ones(12)}
            ),
            "has 3 anchors per cell",
        ),
        (
            lambda state: state.update({"head.cls_subnet.0.weight": torch.ones(256, 128, 3, 3)}),
            r"1 with another shape \(head.cls_subnet.0.weight \(256, 128, 3, 3\), expected \(256, 256, 3, 3\)\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused(state, change, message):
    changed = dict(state)
    change(changed)
    with pytest.raises(InputError, match=f"theirs: .*{message}"):
        import_detectron2(changed, source="theirs")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "resnet10_half"}, "model.backbone.name is resnet10_half"),
        ({"norm": "group"}, "model.backbone.norm is group"),
        ({"norm_eps": 0.0}, "model.backbone.norm_eps is 0.0"),
        ({"p6_from": "p5"}, "model.p6_from is p5"),
        ({"head_norm": "group", "head_conv_bias": False}, "model.head_conv_bias is false"),
        ({"anchors": AnchorConfig(rounding="torchvision")}, "model.anchors.rounding is torchvision"),
        ({"class_activation": "softmax"}, "model.class_activation is softmax"),
    ],
)
def test_detector_that_detectron2_cannot_represent_is_not_exported(settings, key):
    cfg = model_config(**{"name": "resnet18"} | settings)
    is_softmax = cfg.class_activation == "softmax"
    loss = LossConfig(classification=SoftmaxFocalConfig()) if is_softmax else LossConfig()
    checkpoint = Checkpoint(Config(model=cfg, loss=loss, train=TrainConfig(steps=1)), ("cat",), (1,), 1, {"model": {}})
    with pytest.raises(InputError, match=f"{key}: Detectron2 cannot represent this detector"):
        export_detectron2(checkpoint)


def test_resnet18_with_batch_norm_is_exported_and_imported():
    """Basic blocks have no 1x1 convolutions that could have the stride, and batch norm has counters."""
    cfg = model_config(name="resnet18", norm="batch", channels=64, head_convs=1, std=(1.0, 1.0, 1.0))
    model = build_model(cfg, 2)
    checkpoint = Checkpoint(
        Config(model=cfg, train=TrainConfig(steps=1)), ("a", "b"), (1, 2), 1, {"model": model.state_dict()}
    )
    exported = export_detectron2(checkpoint)
    assert "backbone.bottom_up.res3.0.shortcut.norm.running_var" in exported
    again = import_detectron2(exported, source="again")
    assert again.model == cfg.model_copy(update={"backbone": cfg.backbone.model_copy(update={"norm": "frozen"})})
    expected = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    assert set(again.state) == set(expected)
    assert all(torch.equal(again.state[name], value) for name, value in expected.items())
