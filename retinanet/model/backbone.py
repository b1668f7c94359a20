"""Interface between a backbone and the rest of the detector, and the choice of a backbone by config."""

from typing import Protocol, assert_never

import torch
from torch import Tensor

from retinanet.config import BackboneConfig, ResNetConfig
from retinanet.model.pretrained import load_backbone_weights
from retinanet.model.resnet import ResNet


class Backbone(Protocol):
    """An `nn.Module` that turns normalised images into three feature maps, C3, C4 and C5.

    `RetinaNet` relies only on the members below and on being able to register the backbone as a submodule.

    Frozen stages: the backbone itself sets `requires_grad` of the parameters that are never updated to False, and keeps
    the modules that hold them in evaluation mode after `train()`, so that their statistics do not change either.
    """

    @property
    def out_channels(self) -> tuple[int, int, int]:
        """Channels of C3, C4 and C5."""

    @property
    def strides(self) -> tuple[int, int, int]:
        """Strides of C3, C4 and C5 in pixels; the feature pyramid expects (8, 16, 32)."""

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of the weights, which images must follow for fast convolutions.

        It changes with `module.to(memory_format=...)`.
        """

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> C3, C4, C5, each (B, out_channels[i], ceil(H / strides[i]), ...)."""


def build_backbone(cfg: BackboneConfig, *, pretrained: bool) -> Backbone:
    """Build the backbone of a config, with random weights or with the pretrained ones that the config names.

    Raises:
        InputError: the pretrained weights are unknown, cannot be downloaded, or belong to another network.
    """
    match cfg:
        case ResNetConfig():
            backbone = ResNet(
                cfg.name,
                norm=cfg.norm,
                frozen_stages=cfg.frozen_stages,
                checkpoint_activations=cfg.checkpoint_activations,
            )
            if pretrained and cfg.weights != "none":
                load_backbone_weights(backbone, cfg.name, cfg.weights)
            return backbone
        case _:
            assert_never(cfg)
