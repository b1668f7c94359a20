"""Detectron2's RetinaNet in plain torch functions, written from its description: a reference for imported weights.

ResNet with the stride in the first convolution of a stage, and frozen batch norm; pyramid with P6 from C5; anchors at
multiples of the stride, ordered by (scale, ratio); the 1000 best (anchor, class) pairs per level above 0.05, NMS per
class at 0.5, and the 100 best detections.
"""

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
NUM_ANCHORS = 9


class Outputs(NamedTuple):
    """Outputs for one image, per level."""

    logits: list[Tensor]  # (9 * K, H_l, W_l)
    deltas: list[Tensor]  # (36, H_l, W_l)


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var, weight, bias = (
        state[f"{name}.{kind}"][:, None, None] for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + EPS).sqrt() * weight + bias


def conv_norm(x: Tensor, state: dict[str, Tensor], name: str, *, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return norm(F.conv2d(x, weight, None, stride, weight.shape[-1] // 2), state, f"{name}.norm")


def conv(x: Tensor, state: dict[str, Tensor], name: str, *, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], stride, weight.shape[-1] // 2)


def backbone(x: Tensor, state: dict[str, Tensor], prefix: str = "backbone.bottom_up.") -> list[Tensor]:
    """C3, C4 and C5."""
    x = F.max_pool2d(F.relu(conv_norm(x, state, f"{prefix}stem.conv1", stride=2)), 3, 2, 1)
    features = []
    for stage in (2, 3, 4, 5):
        block = 0
        while (name := f"{prefix}res{stage}.{block}") + ".conv1.weight" in state:
            stride = 2 if block == 0 and stage > 2 else 1
            out = F.relu(conv_norm(x, state, f"{name}.conv1", stride=stride))
            out = F.relu(conv_norm(out, state, f"{name}.conv2"))
            out = conv_norm(out, state, f"{name}.conv3")
            x = F.relu(out + (conv_norm(x, state, f"{name}.shortcut", stride=stride) if block == 0 else x))
            block += 1
        features.append(x)
    return features[1:]


def pyramid(features: list[Tensor], state: dict[str, Tensor]) -> list[Tensor]:
    """P3 to P7."""
    levels: list[Tensor] = []
    above = None
    for number, feature in reversed(list(zip((3, 4, 5), features, strict=True))):
        merged = conv(feature, state, f"backbone.fpn_lateral{number}")
        if above is not None:
            merged = merged + above.repeat_interleave(2, -2).repeat_interleave(2, -1)
        above = merged
        levels.insert(0, conv(merged, state, f"backbone.fpn_output{number}"))
    p6 = conv(features[-1], state, "backbone.top_block.p6", stride=2)
    return [*levels, p6, conv(F.relu(p6), state, "backbone.top_block.p7", stride=2)]


def subnet(x: Tensor, state: dict[str, Tensor], name: str, last: str) -> Tensor:
    for layer in (0, 2, 4, 6):
        x = F.relu(conv(x, state, f"head.{name}.{layer}"))
    return conv(x, state, f"head.{last}")


def outputs_of(state: dict[str, Tensor], image: Tensor, mean_bgr: Tensor) -> Outputs:
    """Outputs for one RGB image (3, H, W) uint8, padded with zeros to multiples of 32 after the mean is subtracted."""
    pixels = image.flip(0).to(mean_bgr.dtype) - mean_bgr[:, None, None]
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (0, -width % 32, 0, -height % 32))[None]
    levels = pyramid(backbone(padded, state), state)
    return Outputs(
        [subnet(level, state, "cls_subnet", "cls_score")[0] for level in levels],
        [subnet(level, state, "bbox_subnet", "bbox_pred")[0] for level in levels],
    )


def cell(level: int) -> list[list[float]]:
    """The nine anchors at the origin on level 3 to 7."""
    boxes = []
    for scale in range(3):
        size = 2.0 ** (level + 2) * 2 ** (scale / 3)
        for ratio in (0.5, 1.0, 2.0):
            width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
            boxes.append([-width / 2, -height / 2, width / 2, height / 2])
    return boxes


def detections_of(outputs: Outputs, size: tuple[int, int]) -> list[tuple[float, int, list[float]]]:
    """Score, class and box of the 100 best detections, best first, for an image of (height, width)."""
    candidates: list[tuple[float, int, list[float]]] = []
    for level, (logits, deltas) in enumerate(zip(*outputs, strict=True), start=3):
        anchors, width = cell(level), logits.shape[-1]
        scores = logits.sigmoid().unflatten(0, (NUM_ANCHORS, -1)).permute(2, 3, 0, 1)  # (H, W, 9, K)
        deltas = deltas.unflatten(0, (NUM_ANCHORS, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
        best = scores.flatten().topk(min(1000, scores.numel()))
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if score <= 0.05:
                break
            place, label = divmod(index, scores.shape[-1])
            position, anchor = divmod(place, NUM_ANCHORS)
            y, x = divmod(position, width)
            box = decoded(anchors[anchor], x * 2**level, y * 2**level, deltas[place].tolist(), size)
            candidates.append((score, label, box))
    candidates.sort(key=lambda candidate: -candidate[0])
    kept: list[tuple[float, int, list[float]]] = []
    for score, label, box in candidates:
        if len(kept) < 100 and all(label != other or iou(box, rival) <= 0.5 for _, other, rival in kept):
            kept.append((score, label, box))
    return kept


def decoded(anchor: list[float], x: int, y: int, delta: list[float], size: tuple[int, int]) -> list[float]:
    """Apply deltas to an anchor, and clip the box to the image."""
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    centre_x, centre_y = x + delta[0] * width, y + delta[1] * height
    limit = math.log(1000 / 16)
    width, height = width * math.exp(min(delta[2], limit)), height * math.exp(min(delta[3], limit))
    corners = [centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2]
    return [min(max(value, 0.0), float(limit)) for value, limit in zip(corners, (size[1], size[0]) * 2, strict=True)]


def iou(one: list[float], other: list[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)
