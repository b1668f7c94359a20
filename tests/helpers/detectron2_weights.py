"""Random weights of a Detectron2 RetinaNet, made by a rule that depends only on the seed and the name of a tensor."""

import math
import zlib

import numpy as np


def rule_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by Detectron2's names, scaled so that features, scores and boxes vary as in a trained detector."""
    return {name: rule_tensor(name, shape, seed) for name, shape in shapes.items()}


def rule_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The float32 tensor of one name."""
    x = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        value = (1 + 0.1 * np.abs(x)) * (3600 if "stem" in name else 1)
    elif name.endswith("norm.weight"):
        value = (0.3 if "conv3.norm" in name else 1.0) + 0.05 * x
    elif name == "head.cls_score.bias":
        value = -3 + 0.1 * x
    elif name.endswith(("bias", "running_mean")):
        value = 0.05 * x
    else:
        gains = {"bbox_pred": 0.1, "cls_score": 0.5, "lateral": 0.7}
        gain = next((gain for part, gain in gains.items() if part in name), 1.2)
        value = gain * x / math.sqrt(math.prod(shape[1:]))
    return value.astype(np.float32)


def retinanet_shapes(depth: int = 50, num_classes: int = 80) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of Detectron2's RetinaNet with a ResNet-50 or ResNet-101."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, count: int, side: int, *, normed: bool = False) -> None:
        shapes[f"{name}.weight"] = (out, count, side, side)
        if not normed:
            shapes[f"{name}.bias"] = (out,)
        for kind in ("weight", "bias", "running_mean", "running_var") if normed else ():
            shapes[f"{name}.norm.{kind}"] = (out,)

    bottom_up = "backbone.bottom_up"
    conv(f"{bottom_up}.stem.conv1", 64, 3, 7, normed=True)
    count = 64
    for stage, (blocks, out) in enumerate(
        zip({50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth], (256, 512, 1024, 2048), strict=True), start=2
    ):
        for block in range(blocks):
            name = f"{bottom_up}.res{stage}.{block}"
            if block == 0:
                conv(f"{name}.shortcut", out, count, 1, normed=True)
            conv(f"{name}.conv1", out // 4, count, 1, normed=True)
            conv(f"{name}.conv2", out // 4, out // 4, 3, normed=True)
            conv(f"{name}.conv3", out, out // 4, 1, normed=True)
            count = out
    for level, out in ((3, 512), (4, 1024), (5, 2048)):
        conv(f"backbone.fpn_lateral{level}", 256, out, 1)
        conv(f"backbone.fpn_output{level}", 256, 256, 3)
    conv("backbone.top_block.p6", 256, 2048, 3)
    conv("backbone.top_block.p7", 256, 256, 3)
    for subnet in ("cls_subnet", "bbox_subnet"):
        for layer in (0, 2, 4, 6):
            conv(f"head.{subnet}.{layer}", 256, 256, 3)
    conv("head.cls_score", 9 * num_classes, 256, 3)
    conv("head.bbox_pred", 36, 256, 3)
    return shapes
