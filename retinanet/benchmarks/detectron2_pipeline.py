"""Detectron2's training step: Detectron2 itself if installed, otherwise a reimplementation with the same library calls.

The reimplementation follows `modeling/meta_arch/retinanet.py` and `modeling/matcher.py` of Detectron2 0.6, using
torchvision's modules with our weights. It uses torchvision's focal loss; Detectron2 uses fvcore's scripted version of
the same formula. Detectron2 itself gets random weights: our weights do not fit its residual blocks, which place the
stride differently. The code that runs it has never been tested, because Detectron2 was not available.
"""

import copy
import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import encode_boxes
from torchvision.ops import FrozenBatchNorm2d, box_iou, sigmoid_focal_loss

from retinanet.benchmarks.networks import Scene, plain_extractor
from retinanet.benchmarks.settings import Settings
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.device import autocast, memory_format_for

CONFIGS = {
    "resnet50": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "resnet101": "COCO-Detection/retinanet_R_101_FPN_3x.yaml",
}
FG_IOU, BG_IOU = 0.5, 0.4
BETA = 0.1  # parameter of the smooth L1 loss
IGNORED = -1


class FrozenNorm(FrozenBatchNorm2d):
    """Detectron2's frozen norm, which casts scale and bias to the dtype of the activations.

    torchvision's frozen norm would convert the activations of a bfloat16 network to float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1).to(x.dtype) + shift.view(1, -1, 1, 1).to(x.dtype)


def detectron2_step(ours: RetinaNet, scene: Scene, settings: Settings) -> tuple[str, nn.Module, Callable[[], Tensor]]:
    """Return a description, the network, and a function that computes the loss and its gradients."""
    if settings.backbone in CONFIGS and importlib.util.find_spec("detectron2") is not None:
        return _installed(ours, scene, settings)
    return _reimplemented(ours, scene, settings)


def _reimplemented(ours: RetinaNet, scene: Scene, settings: Settings) -> tuple[str, nn.Module, Callable[[], Tensor]]:
    extractor = plain_extractor(ours, settings.backbone, FrozenNorm)
    network = nn.ModuleDict({"extractor": extractor, "head": copy.deepcopy(ours.head)})
    memory_format = memory_format_for(settings.device, settings.dtype)  # the faster one on this device, as for ours
    network.to(settings.device, memory_format=memory_format).train()
    mean, std = ours.mean.clone(), ours.std.clone()
    classes = ours.head.num_classes
    # Same layout as `DefaultAnchorGenerator`, which generates anchors in every step; that time is negligible.
    anchors = torch.cat([grid.reshape(-1, 4) for grid in ours.anchors(*scene.size, settings.device)])

    def step() -> Tensor:
        labels, boxes = label_anchors(anchors, scene.objects, classes)
        images = ((scene.images - mean) / std).contiguous(memory_format=memory_format)
        with autocast(settings.device, settings.dtype):
            logits, deltas = network["head"](list(network["extractor"](images).values()))
            loss = losses(anchors, logits, labels, deltas, boxes, classes)
        loss.backward()
        return loss

    return "reimplemented", network, step


@torch.no_grad()
def label_anchors(anchors: Tensor, objects: list[dict[str, Tensor]], classes: int) -> tuple[list[Tensor], list[Tensor]]:
    """`RetinaNet.label_anchors`: for each image, labels (A,), `classes` for background, and matched boxes (A, 4)."""
    labels_per_image, boxes_per_image = [], []
    for truth in objects:
        index, kind = match(box_iou(truth["boxes"], anchors))
        labels = truth["labels"][index]
        labels[kind == 0] = classes
        labels[kind == IGNORED] = IGNORED
        labels_per_image.append(labels)
        boxes_per_image.append(truth["boxes"][index])
    return labels_per_image, boxes_per_image


def match(iou: Tensor) -> tuple[Tensor, Tensor]:
    """`Matcher.__call__` with low-quality matches: IoU (N, A) -> object index (A,) and kind (A,): 1, 0 or IGNORED."""
    assert torch.all(iou >= 0)
    best_iou, index = iou.max(dim=0)
    kind = torch.full_like(index, 1, dtype=torch.int8)
    for value, low, high in ((0, -torch.inf, BG_IOU), (IGNORED, BG_IOU, FG_IOU), (1, FG_IOU, torch.inf)):
        kind[(best_iou >= low) & (best_iou < high)] = value
    best_per_object = iou.max(dim=1).values
    _, closest = torch.nonzero(iou == best_per_object[:, None], as_tuple=True)
    kind[closest] = 1
    return index, kind


def losses(
    anchors: Tensor,
    logits: list[Tensor],
    labels_per_image: list[Tensor],
    deltas: list[Tensor],
    boxes_per_image: list[Tensor],
    classes: int,
) -> Tensor:
    """`RetinaNet.losses`: logits L x (B, A_l, K), deltas L x (B, A_l, 4)."""
    labels = torch.stack(labels_per_image)
    valid = labels >= 0
    positive = valid & (labels != classes)
    num_positive = max(positive.sum().item(), 1)
    one_hot = F.one_hot(labels[valid], num_classes=classes + 1)[:, :-1]
    joined = torch.cat(logits, dim=1)[valid]
    class_loss = sigmoid_focal_loss(joined.float(), one_hot.to(joined.dtype).float(), reduction="sum")
    one = anchors.new_ones(4)
    target_deltas = torch.stack([encode_boxes(boxes, anchors, one) for boxes in boxes_per_image])
    predicted_deltas = torch.cat(deltas, dim=1)[positive]
    box_loss = F.smooth_l1_loss(predicted_deltas.float(), target_deltas[positive], beta=BETA, reduction="sum")
    return (class_loss + box_loss) / num_positive


def _installed(ours: RetinaNet, scene: Scene, settings: Settings) -> tuple[str, nn.Module, Callable[[], Tensor]]:
    import detectron2
    from detectron2 import model_zoo
    from detectron2.layers import FrozenBatchNorm2d as TheirFrozenNorm
    from detectron2.modeling import build_model
    from detectron2.structures import Boxes, Instances

    cfg = model_zoo.get_config(CONFIGS[settings.backbone])
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = str(settings.device)
    cfg.MODEL.RETINANET.NUM_CLASSES = ours.head.num_classes
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.VIS_PERIOD = 0
    torch.manual_seed(0)
    network = build_model(cfg).train()
    for module in network.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.backbone(torch.randn(4, 3, 224, 224, device=settings.device))
    network.backbone = TheirFrozenNorm.convert_frozen_batchnorm(network.backbone)
    inputs = []
    for image, truth in zip(scene.images, scene.objects, strict=True):
        instances = Instances(scene.size, gt_boxes=Boxes(truth["boxes"]), gt_classes=truth["labels"])
        inputs.append({"image": image, "instances": instances})

    def step() -> Tensor:
        with autocast(settings.device, settings.dtype):
            loss = sum(network(inputs).values())
        loss.backward()
        return loss

    return f"version {detectron2.__version__}", network, step
