"""The class and the box subnet (Lin et al. 2017, section 4), each shared over all pyramid levels."""

import math

import torch
from torch import Tensor, nn

from retinanet.config.model import HeadNorm
from retinanet.model.norm import norm_layer


class RetinaNetHead(nn.Module):
    """Pyramid features -> class logits and box offsets of every anchor.

    Args:
        channels: of the pyramid.
        num_anchors: per cell.
        num_classes: K, no background.
        num_convs: 3x3 convolutions before the last one, in each subnet.
        norm: after each of them; the paper has none.
        prior: the probability that every anchor gives every class at the start; with a softmax, all classes together.
            It is meant to keep the many background anchors from making the first steps diverge (section 4.1,
            "Initialization").
        background_logit: one more class logit, the last, for background; scores are then a softmax, else sigmoids.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_anchors: int,
        num_classes: int,
        num_convs: int = 4,
        norm: HeadNorm = "none",
        prior: float = 0.01,
        background_logit: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.background_logit = background_logit
        self.num_logits = num_classes + background_logit
        self.class_subnet = subnet(channels, num_convs, num_anchors * self.num_logits, norm)
        self.box_subnet = subnet(channels, num_convs, num_anchors * 4, norm)
        bias = self.class_subnet[-1].bias
        assert isinstance(bias, nn.Parameter)
        if background_logit:
            # Classes at 0, background at b: each class has 1 / (K + e^b), which is to be prior / K.
            bias.data.view(num_anchors, -1)[:, -1] = math.log(num_classes * (1 - prior) / prior)
        else:
            nn.init.constant_(bias, -math.log((1 - prior) / prior))

    def forward(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """L x (B, channels, H_l, W_l) -> L x (B, A_l, K), or K + 1 of a softmax, and L x (B, A_l, 4)."""
        class_logits = [per_anchor(self.class_subnet(level), self.num_logits) for level in pyramid]
        box_deltas = [per_anchor(self.box_subnet(level), 4) for level in pyramid]
        return class_logits, box_deltas


def subnet(channels: int, num_convs: int, out_channels: int, norm: HeadNorm) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        if norm == "group":
            layers.append(norm_layer("group")(channels))
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def per_anchor(output: Tensor, values: int) -> Tensor:
    """(B, anchors * values, H_l, W_l) -> (B, H_l * W_l * anchors, values), the order of the anchors."""
    return torch.permute(output, (0, 2, 3, 1)).reshape(output.shape[0], -1, values)
