"""torchvision's RetinaNet with weights that resemble trained ones, and images to compare it with ours."""

import os
from pathlib import Path

import torch
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.transforms.v2 import functional as F

from retinanet.data.synthetic.scene import draw_image
from retinanet.formats.images.reader import read_image
from retinanet.structures import Detections

DATA = Path(os.environ.get("RETINANET_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
NUM_SLOTS = 91
SHORTER = 120  # shorter side of the images below, pixels
# More than there are detections: at a limit, the result would depend on rounding.
TOP_K = MAX_DETECTIONS = 10_000
BUILDERS = {"v1": retinanet_resnet50_fpn, "v2": retinanet_resnet50_fpn_v2}


def build_theirs(version: str, num_classes: int = NUM_SLOTS, shorter: int = SHORTER) -> nn.Module:
    """torchvision's network with random weights; by default, it need not resize the images below."""
    return BUILDERS[version](
        weights=None,
        weights_backbone=None,
        num_classes=num_classes,
        min_size=shorter,
        max_size=10 * shorter,
        topk_candidates=TOP_K,
        detections_per_img=MAX_DETECTIONS,
    ).eval()


def sample_images() -> list[torch.Tensor]:
    """A landscape and a portrait image, uint8 RGB, with equal shorter sides."""
    return [F.resize(image, [SHORTER], antialias=True) for image in original_images()]


def original_images() -> list[torch.Tensor]:
    """A landscape and a portrait image in their original size, uint8 RGB."""
    files = sorted((DATA / "coco_slice" / "val2017").glob("*.jpg"))[2:4]
    if files:
        return [read_image(file, max_pixels=10_000_000) for file in files]
    return [torch.from_numpy(draw_image(0, "val", index)[0]).permute(2, 0, 1) for index in (0, 3)]


def batched(images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch of images padded on the right and bottom to multiples of 32, and their sizes without the padding."""
    sizes = torch.tensor([image.shape[-2:] for image in images])
    height, width = ((sizes.amax(0) + 31) // 32 * 32).tolist()
    padded = [nn.functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images]
    return torch.stack(padded), sizes


@torch.no_grad()
def spread_out(theirs: nn.Module, images: list[torch.Tensor]) -> None:
    """Scale random weights to resemble trained ones: norm statistics of these images, and varied scores and offsets."""
    norms = [module for module in theirs.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.3, 1.0)
        nn.init.normal_(norm.bias, std=0.2)
    for block in (theirs.head.classification_head.conv, theirs.head.regression_head.conv):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if isinstance(layer, nn.GroupNorm):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.2)
    batch, _ = theirs.transform(images)
    fpn = theirs.backbone.fpn
    theirs.backbone.train()
    body = theirs.backbone.body(batch.tensors)
    theirs.backbone.eval()
    outputs = [*(block[0] for block in fpn.layer_blocks), fpn.extra_blocks.p6, fpn.extra_blocks.p7]
    for level, layer in enumerate(outputs):
        # Scale more on coarse levels, where the inputs of convolutions are mostly zero padding.
        layer.weight.mul_(1.3**level / list(fpn(body).values())[level].std())
        nn.init.normal_(layer.bias, std=0.2)
    features = list(fpn(body).values())
    for subnet, last, mean, std in (
        (theirs.head.classification_head, theirs.head.classification_head.cls_logits, -4.0, 1.5),
        (theirs.head.regression_head, theirs.head.regression_head.bbox_reg, 0.0, 0.3),
    ):
        last.bias.zero_()
        last.weight.mul_(std / last(subnet.conv(features[0])).std())
        nn.init.normal_(last.bias, mean=mean, std=std / 3)


def clear_threshold(scores: torch.Tensor, low: float = 0.75, high: float = 0.85) -> float:
    """A score threshold so far from all scores that rounding does not matter."""
    between = scores[(scores > low) & (scores < high)].sort().values
    widest = between.diff().argmax()
    return between[widest : widest + 2].mean().item()


@torch.no_grad()
def outputs_of(theirs: nn.Module, images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class logits, box deltas and anchors of torchvision's network before decoding."""
    batch, _ = theirs.transform(images)
    features = list(theirs.backbone(batch.tensors).values())
    head = theirs.head(features)
    return head["cls_logits"], head["bbox_regression"], theirs.anchor_generator(batch, features)[0]


def num_unmatched(detections: Detections, reference: dict[str, torch.Tensor]) -> int:
    """Number of our detections without a one-to-one match in theirs: same class, and nearly the same score and box."""
    distance = (detections.boxes[:, None] - reference["boxes"]).abs().amax(-1)
    score_distance = (detections.scores[:, None] - reference["scores"]).abs()
    same = (distance < 0.05) & (score_distance < 1e-4) & (detections.labels[:, None] == reference["labels"])
    matches = distance.where(same, torch.inf).min(1)
    return len(detections.labels) - len(matches.indices[matches.values.isfinite()].unique())


def with_area(detections):
    """torchvision's detections without those in the padding, which it keeps as lines on the border of the image."""
    keep = (detections["boxes"][:, 2:] > detections["boxes"][:, :2]).all(1)
    return {name: values[keep] for name, values in detections.items()}
