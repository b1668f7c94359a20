"""Class and box subnets (Lin et al. 2017, section 4), each shared by all pyramid levels."""

import math

import torch
from torch import Tensor, nn

from retinanet.config.model import ClassPrecision, HeadNorm
from retinanet.model.norm import LevelBatchNorm, SyncBatchNorm, norm_layer


class RetinaNetHead(nn.Module):
    """Computes class logits and box deltas for every anchor from the feature pyramid.

    Args:
        channels: number of channels of the pyramid.
        num_anchors: number of anchors per cell.
        num_classes: number of classes K, without background.
        num_convs: number of 3x3 convolutions before the last one in each subnet.
        norm: normalisation after each of these convolutions; the paper uses none. "batch_per_level" and
            "sync_per_level" have one batch norm per pyramid level, while the levels share the convolutions. This is
            `RetinaSepBNHead` of MMDetection and the effect of `CycleBatchNormList` in Detectron2's `RetinaNetHead`;
            it comes from NAS-FPN (Ghiasi et al. 2019) and EfficientDet (Tan et al. 2020).
        conv_bias: whether these convolutions have biases; with batch norm, they never do.
        num_levels: number of pyramid levels.
        prior: initial probability of each class at every anchor; with softmax, of all classes together. It keeps the
            many background anchors from making the first steps diverge (section 4.1, "Initialization").
        class_precision: precision of the last convolution of the class subnet: that of the network, or "fp32", which
            returns class logits in float32.
        background_logit: append a class logit for background. Scores are then a softmax, otherwise sigmoids.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_anchors: int,
        num_classes: int,
        num_convs: int = 4,
        norm: HeadNorm = "none",
        conv_bias: bool = True,
        num_levels: int = 5,
        prior: float = 0.01,
        class_precision: ClassPrecision = "network",
        background_logit: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.background_logit = background_logit
        self.num_logits = num_classes + background_logit
        last = Float32Conv2d if class_precision == "fp32" else nn.Conv2d
        conv_bias = conv_bias and norm in ("none", "group")  # batch norm would subtract it
        self.class_subnet = subnet(
            channels, num_convs, num_anchors * self.num_logits, norm, num_levels, last, conv_bias=conv_bias
        )
        self.box_subnet = subnet(channels, num_convs, num_anchors * 4, norm, num_levels, conv_bias=conv_bias)
        bias = self.class_subnet[-1].bias
        assert isinstance(bias, nn.Parameter)
        if background_logit:
            # With class logits of 0 and background logit b, each class has probability 1 / (K + e^b) = prior / K.
            bias.data.view(num_anchors, -1)[:, -1] = math.log(num_classes * (1 - prior) / prior)
        else:
            nn.init.constant_(bias, -math.log((1 - prior) / prior))

    def forward(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute class logits L x (B, A_l, K) and box deltas L x (B, A_l, 4) from L x (B, channels, H_l, W_l).

        With a background logit, class logits are L x (B, A_l, K + 1).
        """
        levels = list(enumerate(pyramid))
        class_logits = [
            per_anchor(apply_subnet(self.class_subnet, features, level), self.num_logits) for level, features in levels
        ]
        box_deltas = [per_anchor(apply_subnet(self.box_subnet, features, level), 4) for level, features in levels]
        return class_logits, box_deltas


class Float32Conv2d(nn.Conv2d):
    """Convolution in at least float32, whatever the precision of its input, its weights, and autocast.

    bfloat16 has only 8 significant bits, so most class logits of a feature map would be tied with others.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, channels, H, W)."""
        assert self.bias is not None
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return self._conv_forward(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


def subnet(
    channels: int,
    num_convs: int,
    out_channels: int,
    norm: HeadNorm,
    num_levels: int,
    last: type[nn.Conv2d] = nn.Conv2d,
    *,
    conv_bias: bool = True,
) -> nn.Sequential:
    """Build the convolutions of one subnet, the last of type `last`, and initialise them as in the paper.

    A `ModuleList` among the layers has one norm per level; see `apply_subnet`.
    """
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=conv_bias))
        match norm:
            case "group":
                layers.append(norm_layer("group")(channels))
            case "batch_per_level":
                layers.append(nn.ModuleList(LevelBatchNorm(channels) for _ in range(num_levels)))
            case "sync_per_level":
                layers.append(nn.ModuleList(SyncBatchNorm(channels) for _ in range(num_levels)))
        layers.append(nn.ReLU(inplace=True))
    layers.append(last(channels, out_channels, 3, padding=1))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def apply_subnet(layers: nn.Sequential, x: Tensor, level: int) -> Tensor:
    """Apply the layers of a subnet to the features (B, channels, H_l, W_l) of a level, counted from 0 at the finest."""
    for layer in layers:
        x = layer[level](x) if isinstance(layer, nn.ModuleList) else layer(x)
    return x


def per_anchor(output: Tensor, values: int) -> Tensor:
    """Reorder (B, a * values, H_l, W_l) to anchor order, (B, H_l * W_l * a, values)."""
    return torch.permute(output, (0, 2, 3, 1)).reshape(output.shape[0], -1, values)
