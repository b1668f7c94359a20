"""Weights of torchvision's `retinanet_resnet50_fpn` and `retinanet_resnet50_fpn_v2`: read and write them."""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import AnchorConfig, ModelConfig, PostprocessConfig, ResizeConfig, ResNetConfig
from retinanet.config.model import TorchvisionResNet
from retinanet.errors import InputError
from retinanet.interop.architecture import (
    NUM_ANCHORS,
    Names,
    class_rows,
    convert,
    find_resnet,
    last_layer,
    renamed,
    shape_of,
    subnet_layer,
)
from retinanet.interop.exported import check_exported, exported
from retinanet.interop.imported import ImportedDetector, numbered_names

# Our name and torchvision's. The layers of the subnets are numbered as in `subnet_layer`.
NAMES = (
    (r"^backbone\.", r"backbone.body."),
    (r"^fpn\.laterals\.(\d)\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"^fpn\.outputs\.(\d)\.", r"backbone.fpn.layer_blocks.\1.0."),
    (r"^fpn\.(p[67])\.", r"backbone.fpn.extra_blocks.\1."),
    (r"^head\.class_subnet\.last\.", r"head.classification_head.cls_logits."),
    (r"^head\.class_subnet\.", r"head.classification_head.conv."),
    (r"^head\.box_subnet\.last\.", r"head.regression_head.bbox_reg."),
    (r"^head\.box_subnet\.", r"head.regression_head.conv."),
)
CLASS_LAYER = "head.classification_head.cls_logits"
BOX_LAYER = "head.regression_head.bbox_reg"
NUM_CONVS = 4  # in each subnet
DEFAULT_EPS = 1e-5  # of the norms, unless COCO_V1 weights of `retinanet_resnet50_fpn` are loaded by name

# Categories of the 91 class slots. Slot 0 and those named N/A belong to no class.
SLOTS: tuple[str, ...] = tuple(RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
COCO_IDS = tuple(slot for slot, name in enumerate(SLOTS) if name not in ("__background__", "N/A"))
COCO_NAMES = tuple(SLOTS[slot] for slot in COCO_IDS)
UNUSED_LOGIT = -20.0  # bias of slots that belong to no class: a score of 2e-9


def is_torchvision(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of torchvision's RetinaNet."""
    return f"{CLASS_LAYER}.weight" in state


def import_torchvision(
    state: Mapping[str, Tensor],
    *,
    source: str,
    class_names: tuple[str, ...] | None = None,
    norm_eps: float = DEFAULT_EPS,
    postprocess: PostprocessConfig | None = None,
) -> ImportedDetector:
    """Convert a state dict of torchvision's RetinaNet with a ResNet or ResNeXt backbone.

    A head with 91 slots has COCO's classes; slots without a class are dropped.

    Args:
        source: name of the weights for messages.
        class_names: name of each slot of the head; None: not known.
        norm_eps: eps of the norms in the backbone, which no file contains.
        postprocess: thresholds of the detector; None: torchvision's.

    Raises:
        InputError: the weights belong to another network, or there is not one name for each slot.
    """
    state = with_new_names(state)
    num_anchors = shape_of(state, f"{BOX_LAYER}.bias", source=source)[0] // 4
    if num_anchors != NUM_ANCHORS:
        raise InputError(f"{source}: has {num_anchors} anchors per cell; only torchvision's default, 9, is imported")
    num_slots = shape_of(state, f"{CLASS_LAYER}.bias", source=source)[0] // NUM_ANCHORS
    channels = shape_of(state, "backbone.fpn.inner_blocks.0.0.weight", source=source)[0]
    p6_channels = shape_of(state, "backbone.fpn.extra_blocks.p6.weight", source=source)[1]
    has_norm = "head.classification_head.conv.0.1.weight" in state
    names = names_for(has_norm)
    cfg = ModelConfig(
        backbone=ResNetConfig(
            name=find_resnet(state, "backbone.body.", names, source=source),
            weights="none",
            norm="frozen",
            norm_eps=norm_eps,
            frozen_stages=0,
        ),
        channels=channels,
        p6_from="p5" if p6_channels == channels else "c5",
        head_norm="group" if has_norm else "none",
        head_conv_bias=not has_norm,
        anchors=AnchorConfig(rounding="torchvision"),
    )
    converted = convert(state, cfg, num_slots, names, source=source)

    slots, ids = list(range(num_slots)), range(1, num_slots + 1)
    are_named = True
    if class_names is None and num_slots == len(SLOTS):
        slots, ids, class_names = list(COCO_IDS), COCO_IDS, COCO_NAMES
        for kind in ("weight", "bias"):
            name = f"head.class_subnet.{last_layer(NUM_CONVS, has_norm=has_norm)}.{kind}"
            converted[name] = class_rows(converted[name], slots, num_slots)
    elif class_names is None:
        are_named, class_names = False, numbered_names(num_slots)
    elif len(class_names) != num_slots:
        raise InputError(f"{source}: has {num_slots} classes, but {len(class_names)} names: {', '.join(class_names)}")
    return ImportedDetector(
        source=source,
        model=cfg,
        resize=ResizeConfig(shorter=(800,), longer=1333),
        postprocess=postprocess or PostprocessConfig(min_score=0.05, top_k=1000, nms_iou=0.5, max_detections=300),
        class_names=class_names,
        category_ids=tuple(ids),
        state=converted,
        are_classes_named=are_named,
    )


def export_torchvision(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Convert the weights of a checkpoint to a state dict of torchvision's RetinaNet.

    A detector of COCO's 80 classes gets torchvision's 91 slots; otherwise, slot k is class k. Image sizes, mean and
    std, anchor sizes, thresholds and the eps of the norms are arguments of torchvision's constructor, not weights.

    Raises:
        InputError: torchvision cannot represent the detector; the message names the key.
    """
    cfg, class_names = checkpoint.config.model, checkpoint.class_names
    has_norm = cfg.head_norm == "group"
    check_exported(
        cfg,
        "torchvision",
        {
            "backbone.name": get_args(TorchvisionResNet),
            "backbone.stride_in_1x1": (False,),
            "head_convs": (NUM_CONVS,),
            "head_conv_bias": (not has_norm,),
            "anchors.rounding": ("torchvision",),
            "anchors.offset": (0.0,),
        },
    )
    names = names_for(has_norm)
    state = {names(name): value for name, value in exported(checkpoint).items()}
    if set(class_names) == set(COCO_NAMES):
        for kind, unused in (("weight", 0.0), ("bias", UNUSED_LOGIT)):
            rows = state[f"{CLASS_LAYER}.{kind}"].unflatten(0, (-1, len(class_names)))
            slots = torch.full((rows.shape[0], len(SLOTS), *rows.shape[2:]), unused, dtype=rows.dtype)
            slots[:, [SLOTS.index(name) for name in class_names]] = rows
            state[f"{CLASS_LAYER}.{kind}"] = slots.flatten(0, 1)
    return state


def names_for(has_norm: bool) -> Names:
    """Return the function from our names to torchvision's, for a head with or without group norm."""
    return lambda name: renamed(subnet_layer(name, NUM_CONVS, has_norm=has_norm), NAMES)


def with_new_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Use the names of torchvision 0.13 and later, as torchvision does when it loads the COCO weights."""
    table = (
        (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
        (r"^(head\.\w+_head\.conv)\.(\d)\.(weight|bias)$", lambda old: f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}"),
    )
    return {renamed(name, table): value for name, value in state.items()}
