"""Interface between the backbone and the rest of the detector, and the builder that selects a backbone by config."""

from typing import Protocol, assert_never

import torch
from torch import Tensor, nn

from retinanet.config import BackboneConfig, ResNetConfig, TimmConfig
from retinanet.config.model import Levels, level_numbers
from retinanet.model.resnet import ResNet
from retinanet.model.timm_backbone import TimmBackbone

LAST_STAGE = 5  # C5 is the coarsest feature map of a backbone


class Backbone(Protocol):
    """An `nn.Module` that turns normalised images into feature maps: C3, C4 and C5, or C2 to C5 for a pyramid with P2.

    `RetinaNet` relies only on the members below and those of `nn.Module`.

    In frozen stages, the backbone sets `requires_grad` to False for all parameters, and `train()` keeps the modules in
    evaluation mode, which also freezes their running statistics.
    """

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of C3, C4 and C5, or of C2 to C5."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the feature maps in pixels: (8, 16, 32) or (4, 8, 16, 32), like the anchors on these levels."""

    @property
    def divisor(self) -> int:
        """Both sides of images must be multiples of this number of pixels; 1 if every size is accepted."""

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of the weights, also used for images; change it with `module.to(memory_format=...)`."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps, each (B, out_channels[i], ceil(H / strides[i]), ceil(W / strides[i])).

        Args:
            images: normalised, (B, C, H, W).
        """

    def stages(self) -> list[list[nn.Parameter]]:
        """All parameters, those of frozen stages included, by stage from the input to the output.

        Layer-wise learning rates decay from the last stage to the first.
        """

    def load_pretrained(self, weights: str) -> None:
        """Replace all weights and statistics, including those of frozen stages, with pretrained ones.

        Weights for RGB images are adapted to the number of channels of the backbone; see `adapt_stem`.

        Args:
            weights: "imagenet", another name that the backbone supports, or a file path; never "none".

        Raises:
            InputError: the weights are unknown, cannot be downloaded or read, or belong to a different network;
                the backbone is then left unchanged.
        """


def build_backbone(cfg: BackboneConfig, *, in_channels: int = 3, levels: Levels = "p3..p7") -> Backbone:
    """Build the configured backbone with random weights.

    Args:
        in_channels: number C of channels of the images.
        levels: levels of the pyramid; the backbone computes a feature map for each of them up to C5.

    Raises:
        InputError: timm is missing, or does not have the backbone with these settings.
    """
    out_strides = tuple(2**number for number in level_numbers(levels) if number <= LAST_STAGE)
    match cfg:
        case ResNetConfig():
            return ResNet(
                cfg.name,
                norm=cfg.norm,
                norm_eps=cfg.norm_eps,
                stride_in_1x1=cfg.stride_in_1x1,
                frozen_stages=cfg.frozen_stages,
                out_strides=out_strides,
                checkpoint_activations=cfg.checkpoint_activations,
                in_channels=in_channels,
            )
        case TimmConfig():
            return TimmBackbone(
                cfg.name,
                norm=cfg.norm,
                frozen_stages=cfg.frozen_stages,
                checkpoint_activations=cfg.checkpoint_activations,
                out_strides=out_strides,
                in_channels=in_channels,
            )
        case _:
            assert_never(cfg)
