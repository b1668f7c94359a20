"""Compare the whole pipeline, from pixels to detections, with a torchvision RetinaNet that has the same weights."""

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.transforms.v2 import functional as F

from retinanet.config import AnchorConfig
from retinanet.data.synthetic.scene import draw_image
from retinanet.detection.postprocess import Postprocess
from retinanet.formats.images.reader import read_image
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.structures import Detections, HeadOutputs
from tests.helpers.models import model_config

DATA = Path(os.environ.get("RETINANET_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))
NUM_CLASSES = 91
SHORTER = 120  # shorter side of the images below, pixels
# More than there are detections: at a limit, the result would depend on rounding.
TOP_K = MAX_DETECTIONS = 10_000
RENAMED = [
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"fpn.laterals.\1."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"fpn.outputs.\1."),
    (r"^backbone\.fpn\.extra_blocks\.", "fpn."),
    (r"^head\.classification_head\.", "head.class_subnet."),
    (r"^head\.regression_head\.", "head.box_subnet."),
]
LAST_CONVOLUTIONS = ("cls_logits", "bbox_reg")


def renamed(state: dict[str, torch.Tensor], layers_per_conv: int) -> dict[str, torch.Tensor]:
    """Rename torchvision's weights. One block of its subnets corresponds to `layers_per_conv` of our layers."""
    result = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        name = re.sub(
            r"\.conv\.(\d)\.(\d)\.", lambda match: f".{int(match[1]) * layers_per_conv + int(match[2])}.", name
        )
        name = re.sub("|".join(LAST_CONVOLUTIONS), str(4 * layers_per_conv), name)
        result[name] = value
    return result


def sample_images() -> list[torch.Tensor]:
    """A landscape and a portrait image, uint8 RGB, with equal shorter sides."""
    files = sorted((DATA / "coco_slice" / "val2017").glob("*.jpg"))[2:4]
    if files:
        images = [read_image(file, max_pixels=10_000_000) for file in files]
    else:
        images = [torch.from_numpy(draw_image(0, "val", index)[0]).permute(2, 0, 1) for index in (0, 3)]
    return [F.resize(image, [SHORTER], antialias=True) for image in images]


def batched(images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch of images padded on the right and bottom to multiples of 32, and the sizes inside the padding."""
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


def pair_of(version: str, images: list[torch.Tensor]) -> tuple[RetinaNet, nn.Module]:
    """Our network and torchvision's, with the same random weights."""
    torch.manual_seed(0)
    build = {"v1": retinanet_resnet50_fpn, "v2": retinanet_resnet50_fpn_v2}[version]
    # No image is resized: the shorter sides already equal `min_size`.
    theirs = build(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES,
        min_size=SHORTER,
        max_size=10 * SHORTER,
        topk_candidates=TOP_K,
        detections_per_img=MAX_DETECTIONS,
    ).eval()
    spread_out(theirs, images)

    settings = {"v1": {"p6_from": "p5"}, "v2": {"p6_from": "c5", "head_norm": "group"}}[version]
    cfg = model_config(name="resnet50", anchors=AnchorConfig(rounding="torchvision"), **settings)
    ours = build_model(cfg, NUM_CLASSES).eval()
    missing, unknown = ours.load_state_dict(renamed(theirs.state_dict(), 2 if version == "v1" else 3), strict=False)
    assert unknown == []
    # torchvision has no bias in convolutions before a norm; our biases start at zero.
    assert [name for name in missing if version == "v1" or not re.fullmatch(r"head\.\w+\.\d+\.bias", name)] == []
    return ours, theirs


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


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_detections_equal_torchvisions(version):
    images = sample_images()
    assert len({image.shape for image in images}) > 1 and {min(image.shape[1:]) for image in images} == {SHORTER}
    as_floats = [image / 255 for image in images]
    ours, theirs = pair_of(version, as_floats)
    batch, sizes = batched(images)
    assert any(side % 64 for side in batch.shape[-2:])  # torchvision's anchor spacing then differs from the stride
    with torch.no_grad():
        outputs = ours(batch, sizes)
    logits, deltas, anchors = outputs_of(theirs, as_floats)
    assert torch.equal(torch.cat([level.view(-1, 4) for level in outputs.anchors]), anchors)
    assert_close(torch.cat(outputs.class_logits, 1), logits, rtol=1e-4, atol=1e-3)
    assert_close(torch.cat(outputs.box_deltas, 1), deltas, rtol=1e-4, atol=1e-3)
    assert logits.std() > 1 and deltas.std() > 0.1

    assert theirs.score_thresh == 0.05
    theirs.score_thresh = clear_threshold(logits.sigmoid())
    assert sum(bool((level.sigmoid() > theirs.score_thresh).any()) for level in outputs.class_logits) >= 3
    with torch.no_grad():
        expected = [with_area(detections) for detections in theirs(as_floats)]
    postprocess = Postprocess(min_score=theirs.score_thresh, top_k=TOP_K, max_detections=MAX_DETECTIONS)

    counts = [level.shape[1] for level in outputs.class_logits]
    same_outputs = HeadOutputs(list(logits.split(counts, 1)), list(deltas.split(counts, 1)), outputs.anchors)
    for detections, reference in zip(postprocess(same_outputs, sizes, sizes), expected, strict=True):
        assert 20 < len(detections.labels) == len(reference["labels"]) < MAX_DETECTIONS
        assert len(detections.labels.unique()) > 5
        assert num_unmatched(detections, reference) == 0

    # Our own outputs differ by rounding, so NMS may keep a different one of two nearly equal boxes.
    for detections, reference in zip(postprocess(outputs, sizes, sizes), expected, strict=True):
        assert abs(len(detections.labels) - len(reference["labels"])) <= len(detections.labels) // 100
        assert num_unmatched(detections, reference) <= len(detections.labels) // 100
