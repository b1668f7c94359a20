"""Weights of Detectron2's RetinaNet with a ResNet or ResNeXt backbone: read and write them."""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import AnchorConfig, ModelConfig, PostprocessConfig, ResizeConfig, ResNetConfig
from retinanet.config.model import WITHOUT_1X1, TorchvisionResNet
from retinanet.detection.anchors import cell_anchors
from retinanet.errors import InputError
from retinanet.interop.architecture import Names, convert, find_resnet, last_layer, renamed, shape_of, subnet_layer
from retinanet.interop.exported import check_exported, exported
from retinanet.interop.imported import ImportedDetector, numbered_names
from retinanet.interop.torchvision import COCO_IDS, COCO_NAMES
from retinanet.model.norm import EPS

# Our name and Detectron2's. Except for the last convolution, the layers of the subnets have the same numbers.
NAMES = (
    (r"^backbone\.(conv1|bn1)\.", r"backbone.bottom_up.stem.\1."),
    *((rf"^backbone\.layer{stage}\.", rf"backbone.bottom_up.res{stage + 1}.") for stage in (1, 2, 3, 4)),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", r".shortcut."),
    (r"\.downsample\.1\.", r".shortcut.norm."),
    *((rf"^fpn\.laterals\.{index}\.", rf"backbone.fpn_lateral{index + 3}.") for index in (0, 1, 2)),
    *((rf"^fpn\.outputs\.{index}\.", rf"backbone.fpn_output{index + 3}.") for index in (0, 1, 2)),
    (r"^fpn\.(p[67])\.", r"backbone.top_block.\1."),
    (r"^head\.class_subnet\.last\.", r"head.cls_score."),
    (r"^head\.class_subnet\.", r"head.cls_subnet."),
    (r"^head\.box_subnet\.last\.", r"head.bbox_pred."),
    (r"^head\.box_subnet\.", r"head.bbox_subnet."),
)
CLASS_LAYER, BOX_LAYER = "head.cls_score", "head.bbox_pred"
CELL_ANCHORS = "anchor_generator.cell_anchors."  # buffers that only files of older versions contain
# Normalisation of the models in the model zoo, BGR. Only files of older versions contain it, as `pixel_mean` and
# `pixel_std`.
PIXEL_MEAN = (103.53, 116.28, 123.675)
PIXEL_STD = (1.0, 1.0, 1.0)


def is_detectron2(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of Detectron2's RetinaNet."""
    return f"{CLASS_LAYER}.weight" in state and any(name.startswith("backbone.bottom_up.") for name in state)


def import_detectron2(state: Mapping[str, Tensor], *, source: str) -> ImportedDetector:
    """Convert a state dict of Detectron2's RetinaNet, with the settings of `Base-RetinaNet.yaml`.

    The input channels of the stem are reordered from BGR to RGB, and the rows of the last convolutions from anchors
    ordered by (scale, ratio) to (ratio, scale). Detectron2's mean and standard deviation are stored in `model.mean`
    and `model.std`, so that no weight is rounded. A head with 80 classes has COCO's.

    Args:
        source: name of the weights for messages.

    Raises:
        InputError: the weights belong to another network, or to anchors other than the default.
    """
    state = dict(state)
    mean, std = (
        tuple(state.pop(name).flatten().tolist()) if name in state else default
        for name, default in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD))
    )
    anchors = AnchorConfig()
    _check_anchors(state, anchors, source)
    state = {name: value for name, value in state.items() if not name.startswith(CELL_ANCHORS)}
    state |= _missing_statistics(state)
    num_ratios, num_scales = len(anchors.aspect_ratios), len(anchors.scales)
    num_anchors = shape_of(state, f"{BOX_LAYER}.bias", source=source)[0] // 4
    if num_anchors != num_ratios * num_scales:
        raise InputError(f"{source}: has {num_anchors} anchors per cell; only Detectron2's default, 9, is imported")
    num_classes = shape_of(state, f"{CLASS_LAYER}.bias", source=source)[0] // num_anchors
    channels = shape_of(state, "backbone.fpn_lateral3.weight", source=source)[0]
    p6_channels = shape_of(state, "backbone.top_block.p6.weight", source=source)[1]
    has_norm = "head.cls_subnet.1.weight" in state
    convolutions = [
        name
        for name, value in state.items()
        if name.startswith("head.cls_subnet.") and name.endswith(".weight") and value.ndim == 4
    ]
    names = names_for(len(convolutions), has_norm)
    resnet = find_resnet(state, "backbone.bottom_up.", names, source=source)
    cfg = ModelConfig(
        backbone=ResNetConfig(
            name=resnet,
            weights="none",
            norm="frozen",
            frozen_stages=0,
            # No file contains the strides. ImageNet weights for unscaled pixels are those of the original ResNet;
            # the others that Detectron2 offers are torchvision's.
            stride_in_1x1=resnet not in WITHOUT_1X1 and std == PIXEL_STD,
        ),
        channels=channels,
        p6_from="p5" if p6_channels == channels else "c5",
        head_convs=len(convolutions),
        head_norm="group" if has_norm else "none",
        anchors=anchors,
        mean=mean[::-1],
        std=std[::-1],
    )
    converted = convert(state, cfg, num_classes, names, source=source)
    has_coco_classes = num_classes == len(COCO_NAMES)
    return ImportedDetector(
        source=source,
        model=cfg,
        resize=ResizeConfig(shorter=(800,), longer=1333),
        postprocess=PostprocessConfig(min_score=0.05, top_k=1000, nms_iou=0.5, max_detections=100),
        class_names=COCO_NAMES if has_coco_classes else numbered_names(num_classes),
        category_ids=COCO_IDS if has_coco_classes else tuple(range(1, num_classes + 1)),
        state=_reordered(converted, len(convolutions), has_norm, num_scales, num_ratios),
        are_classes_named=has_coco_classes,
    )


def export_detectron2(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Convert the weights of a checkpoint to a state dict of Detectron2's RetinaNet, for BGR images.

    Strides, anchors, image sizes and thresholds belong to Detectron2's config, not to its weights. `pixel_mean` and
    `pixel_std` are added if they are not those of its model zoo; Detectron2 takes them from its config as well.

    Raises:
        InputError: Detectron2 cannot represent the detector; the message names the key.
    """
    cfg = checkpoint.config.model
    check_exported(
        cfg,
        "Detectron2",
        {
            "backbone.name": get_args(TorchvisionResNet),
            "backbone.norm_eps": (EPS,),
            "p6_from": ("c5",),
            "head_conv_bias": (True,),
            "anchors.rounding": ("none",),
        },
    )
    has_norm = cfg.head_norm == "group"
    names = names_for(cfg.head_convs, has_norm)
    num_ratios, num_scales = len(cfg.anchors.aspect_ratios), len(cfg.anchors.scales)
    ours = _reordered(exported(checkpoint), cfg.head_convs, has_norm, num_ratios, num_scales)
    state = {names(name): value for name, value in ours.items()}
    for name, value, default in (("pixel_mean", cfg.mean, PIXEL_MEAN), ("pixel_std", cfg.std, PIXEL_STD)):
        if value[::-1] != default:
            state[name] = torch.tensor(value[::-1]).view(3, 1, 1)
    return state


def names_for(num_convs: int, has_norm: bool) -> Names:
    """Return the function from our names to Detectron2's, for a head of this size, with or without group norm."""

    def theirs(name: str) -> str:
        layer = subnet_layer(name, num_convs, has_norm=has_norm)
        return renamed(layer if ".last." in layer else name, NAMES)

    return theirs


def _reordered(state: dict[str, Tensor], num_convs: int, has_norm: bool, outer: int, inner: int) -> dict[str, Tensor]:
    """Reverse the input channels of the stem, and order the anchors in the last convolutions by (inner, outer) index.

    It is its own inverse, with `outer` and `inner` exchanged.
    """
    state = dict(state)
    state["backbone.conv1.weight"] = state["backbone.conv1.weight"].flip(1)
    last = last_layer(num_convs, has_norm=has_norm)
    for subnet in ("class_subnet", "box_subnet"):
        for kind in ("weight", "bias"):
            name = f"head.{subnet}.{last}.{kind}"
            state[name] = state[name].unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)
    return state


def _missing_statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean 0 and variance 1 - eps for norms without statistics, as in Detectron2.

    Weights converted from Caffe2 have the statistics folded into scale and shift.
    """
    missing = {}
    for name, value in state.items():
        norm, _, kind = name.rpartition(".")
        if norm.endswith(".norm") and kind == "weight" and f"{norm}.running_var" not in state:
            missing |= {f"{norm}.running_mean": torch.zeros_like(value)}
            missing |= {f"{norm}.running_var": torch.ones_like(value) - EPS}
    return missing


def _check_anchors(state: Mapping[str, Tensor], anchors: AnchorConfig, source: str) -> None:
    """Check the anchors in a file, if it contains them.

    Raises:
        InputError: they are not Detectron2's default anchors.
    """
    for level, size in enumerate(anchors.sizes):
        expected = cell_anchors(size, anchors.scales, anchors.aspect_ratios, "none")
        expected = expected.unflatten(0, (len(anchors.aspect_ratios), -1)).transpose(0, 1).flatten(0, 1)
        found = state.get(f"{CELL_ANCHORS}{level}", expected)
        if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-3):
            raise InputError(f"{source}: its anchors are not Detectron2's default for RetinaNet, as is required")
