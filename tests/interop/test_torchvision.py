import re

import pytest
import torch
from torchvision.models import get_model_weights
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import AnchorConfig, Config, LossConfig, SoftmaxFocalConfig, TrainConfig
from retinanet.config.custom import CustomConfig
from retinanet.errors import InputError
from retinanet.interop.exported import exported
from retinanet.interop.torchvision import (
    COCO_IDS,
    COCO_NAMES,
    export_torchvision,
    import_torchvision,
)
from retinanet.model.retinanet import build_model
from tests.helpers.models import model_config

BUILDERS = {"v1": retinanet_resnet50_fpn, "v2": retinanet_resnet50_fpn_v2}


def build(version, num_classes=91):
    return BUILDERS[version](weights=None, weights_backbone=None, num_classes=num_classes)


@pytest.fixture(scope="module", params=["v1", "v2"])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def state(version):
    """Random weights with 91 slots; no test changes them."""
    torch.manual_seed(0)
    return {name: torch.randn_like(value.float()) for name, value in build(version).state_dict().items()}


def old_names(state):
    """The names before torchvision 0.13, which its published weights of `retinanet_resnet50_fpn` still have."""
    result = {}
    for name, value in state.items():
        name = re.sub(r"(blocks\.\d)\.0\.", r"\1.", name)
        name = re.sub(r"_head\.conv\.(\d)\.0\.", lambda match: f"_head.conv.{2 * int(match[1])}.", name)
        result[name] = value
    return result


def test_classes_are_those_of_coco():
    """80 classes with ids from 1 to 90: 10 ids are not used."""
    assert len(COCO_NAMES) == len(COCO_IDS) == 80 and COCO_IDS[0] == 1 and COCO_IDS[-1] == 90
    known = dict(zip(COCO_NAMES, COCO_IDS, strict=True))
    assert (known["person"], known["stop sign"], known["backpack"], known["toothbrush"]) == (1, 13, 27, 90)
    for weights in (get_model_weights(f"retinanet_resnet50_fpn{suffix}").COCO_V1 for suffix in ("", "_v2")):
        names = weights.meta["categories"]
        assert len(names) == 91 and all(names[id] == name for name, id in known.items())


def test_architecture_is_read_from_the_weights(version, state):
    detector = import_torchvision(state, source="x")
    assert detector.model.backbone.name == "resnet50"
    assert detector.model.p6_from == {"v1": "p5", "v2": "c5"}[version]
    assert detector.model.head_norm == {"v1": "none", "v2": "group"}[version]
    assert detector.model.head_conv_bias == (version == "v1")
    assert detector.model.anchors.rounding == "torchvision"
    model = build_model(detector.model, 80)
    model.load_state_dict(detector.state)
    assert (detector.resize.shorter, detector.resize.longer) == ((800,), 1333)
    theirs = build(version)
    assert theirs.transform.min_size == (800,) and theirs.transform.max_size == 1333
    settings = detector.postprocess
    assert (settings.min_score, settings.nms_iou) == (theirs.score_thresh, theirs.nms_thresh)
    assert (settings.max_detections, settings.top_k) == (theirs.detections_per_img, theirs.topk_candidates)
    assert [round(value / 255, 6) for value in (*detector.model.mean, *detector.model.std)] == [
        *theirs.transform.image_mean,
        *theirs.transform.image_std,
    ]


def test_rows_of_slots_without_a_class_are_dropped(state, version):
    """Row a * 91 + slot of torchvision becomes row a * 80 + label."""
    detector = import_torchvision(state, source="x")
    theirs = state["head.classification_head.cls_logits.weight"]
    ours = detector.state[f"head.class_subnet.{8 if version == 'v1' else 12}.weight"]
    assert len(ours) == 9 * 80
    for anchor, name in [(0, "person"), (3, "stop sign"), (8, "toothbrush")]:
        label = detector.class_names.index(name)
        assert torch.equal(ours[anchor * 80 + label], theirs[anchor * 91 + detector.category_ids[label]])


def test_import_export_and_import_are_bit_identical(state):
    """Only slots without a class, and counters of batch norm, are not restored."""
    detector = import_torchvision(state, source="first")
    back = export_torchvision(detector.checkpoint())
    assert set(back) == {name for name in state if not name.endswith("num_batches_tracked")}
    for name, value in back.items():
        expected = state[name]
        if "cls_logits" in name:
            value, expected = (tensor.unflatten(0, (9, 91))[:, list(COCO_IDS)] for tensor in (value, expected))
        assert torch.equal(value, expected), name
    unused = [slot for slot in range(91) if slot not in COCO_IDS]
    assert torch.all(back["head.classification_head.cls_logits.bias"].view(9, 91)[:, unused].sigmoid() < 1e-8)
    again = import_torchvision(back, source="again")
    assert again.model == detector.model and list(again.state) == list(detector.state)
    assert all(torch.equal(again.state[name], value) for name, value in detector.state.items())


def test_exported_weights_load_strictly(version, state):
    detector = import_torchvision(state, source="x")
    build(version).load_state_dict(export_torchvision(detector.checkpoint()))


def test_names_of_older_versions_are_read(version, state):
    old = old_names(state)
    if version == "v1":
        assert "backbone.fpn.inner_blocks.2.weight" in old and "head.regression_head.conv.6.bias" in old
        build(version).load_state_dict(dict(old))  # torchvision itself accepts them
    else:
        old = {name: old.get(name, value) for name, value in state.items()}  # only the pyramid's names are older
    expected = import_torchvision(state, source="new").state
    found = import_torchvision(old, source="old").state
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("num_classes", [1, 4, 80])
def test_other_numbers_of_slots_have_no_class_names(num_classes):
    torch.manual_seed(0)
    theirs = build("v1", num_classes).state_dict()
    detector = import_torchvision(theirs, source="x")
    assert not detector.are_classes_named and len(detector.class_names) == num_classes
    assert detector.class_names[0] == "class 0" and detector.category_ids == tuple(range(1, num_classes + 1))
    names = tuple(f"animal {label}" for label in range(num_classes))
    named = import_torchvision(theirs, source="x", class_names=names)
    assert named.are_classes_named and named.class_names == names
    with pytest.raises(InputError, match=rf"x: has {num_classes} classes, but {num_classes + 1} names"):
        import_torchvision(theirs, source="x", class_names=(*names, "one more"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("head.regression_head.bbox_reg.bias"), "has no head.regression_head.bbox_reg.bias"),
        (
            lambda state: state.pop("backbone.fpn.extra_blocks.p7.bias"),
            r"1 missing \(backbone.fpn.extra_blocks.p7.bias",
        ),
        (lambda state: state.update(extra=torch.ones(1)), r"1 unknown \(extra\)"),
        (lambda state: state.pop("backbone.body.layer3.5.bn3.bias"), "its backbone is none of"),
        (lambda state: state.update({"head.regression_head.bbox_reg.bias": torch.ones(12)}), "has 3 anchors per cell"),
    ],
)
def test_weights_of_another_network_are_refused(state, change, message):
    changed = dict(state)
    change(changed)
    with pytest.raises(InputError, match=f"theirs: .*{message}"):
        import_torchvision(changed, source="theirs")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "resnet10_half"}, "model.backbone.name is resnet10_half"),
        ({"norm": "group"}, "model.backbone.norm is group"),
        ({"name": "resnet50", "stride_in_1x1": True}, "model.backbone.stride_in_1x1 is true"),
        ({"head_convs": 2}, "model.head_convs is 2"),
        ({"head_norm": "group"}, "model.head_conv_bias is true"),
        ({"anchors": AnchorConfig()}, "model.anchors.rounding is none"),
        ({"anchors": AnchorConfig(rounding="torchvision", offset=0.5)}, "model.anchors.offset is 0.5"),
        ({"class_activation": "softmax"}, "model.class_activation is softmax"),
        ({"in_channels": 4, "mean": (1.0,) * 4, "std": (1.0,) * 4}, "model.in_channels is 4"),
        ({"head_norm": "batch_per_level"}, "model.head_norm is batch_per_level"),
        ({"levels": "p2..p7", "anchors": AnchorConfig(rounding="torchvision")}, "model.levels is p2..p7"),
    ],
)
def test_detector_that_torchvision_cannot_represent_is_not_exported(settings, key):
    cfg = model_config(**{"name": "resnet18", "anchors": AnchorConfig(rounding="torchvision"), **settings})
    is_softmax = cfg.class_activation == "softmax"
    loss = LossConfig(classification=SoftmaxFocalConfig()) if is_softmax else LossConfig()
    checkpoint = Checkpoint(Config(model=cfg, loss=loss, train=TrainConfig(steps=1)), ("cat",), (1,), 1, {"model": {}})
    with pytest.raises(InputError, match=f"{key}: torchvision cannot represent this detector"):
        export_torchvision(checkpoint)


def test_custom_model_is_not_exported():
    cfg = Config(custom=CustomConfig(model="users_module.IoUNet"), train=TrainConfig(steps=1))
    checkpoint = Checkpoint(cfg, ("cat",), (1,), 1, {"model": {}})
    with pytest.raises(InputError, match=r"a custom model, users_module\.IoUNet"):
        exported(checkpoint)


def test_averaged_weights_are_exported():
    cfg = model_config(name="resnet18", anchors=AnchorConfig(rounding="torchvision"), channels=64)
    last, average = (build_model(cfg, 2).state_dict() for _ in range(2))
    checkpoint = Checkpoint(
        Config(model=cfg, train=TrainConfig(steps=1)), ("a", "b"), (1, 2), 1, {"model": last, "ema": {"model": average}}
    )
    state = export_torchvision(checkpoint)
    assert torch.equal(state["backbone.body.conv1.weight"], average["backbone.conv1.weight"])
    assert all(value.is_contiguous() and not value.requires_grad for value in state.values())
