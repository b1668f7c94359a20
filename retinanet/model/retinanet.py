"""The complete network, from images to `HeadOutputs`, in training and evaluation mode."""

import torch
from torch import Tensor, nn

from retinanet.config import ModelConfig
from retinanet.config.model import level_numbers
from retinanet.detection.anchors import AnchorGenerator
from retinanet.errors import InputError
from retinanet.model.backbone import Backbone, build_backbone
from retinanet.model.fpn import FeaturePyramid
from retinanet.model.head import RetinaNetHead
from retinanet.structures import HeadOutputs


class RetinaNet(nn.Module):
    """RetinaNet: backbone, feature pyramid and head (Lin et al. 2017, "Focal Loss for Dense Object Detection").

    Args:
        backbone: an `nn.Module` with the members of `Backbone`.
        anchors: one generator for all pyramid levels.
        mean, std: statistics of the images that the backbone was trained on, per RGB channel, in 0..255.
    """

    mean: Tensor  # (1, 3, 1, 1)
    std: Tensor  # (1, 3, 1, 1)

    def __init__(
        self,
        backbone: Backbone,
        fpn: FeaturePyramid,
        head: RetinaNetHead,
        anchors: AnchorGenerator,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ):
        super().__init__()
        strides = tuple(anchors.strides)[: len(backbone.strides)]
        assert tuple(backbone.strides) == strides, f"backbone strides {backbone.strides}, anchor strides {strides}"
        self.backbone = backbone
        self.fpn = fpn
        self.head = head
        self.anchors = anchors
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> HeadOutputs:
        """Compute class logits and box deltas for every anchor.

        Args:
            images: (B, 3, H, W) uint8, RGB.
            image_sizes: (B, 2), height and width of each image without padding.

        Raises:
            InputError: `images` has the wrong dtype or shape.
        """
        class_logits, box_deltas = self.outputs(self.normalise(images, image_sizes))
        return HeadOutputs(class_logits, box_deltas, self.anchors(images.shape[-2], images.shape[-1], images.device))

    def outputs(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Compute class logits and box deltas from normalised images: the part of the network that can be compiled."""
        return self.head(self.fpn(self.backbone(pixels)))

    def normalise(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Normalise images to zero mean and unit variance, with zeros in the padding, in the backbone's memory format.

        Raises:
            InputError: `images` is not uint8 (B, 3, H, W).
        """
        # Floats would be ambiguous: 0..1 as in torchvision, or 0..255.
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise InputError(
                f"images are {images.dtype} {tuple(images.shape)}, expected torch.uint8 (B, 3, H, W), RGB in 0..255; "
                "convert floats in 0..1 with (images * 255).round().to(torch.uint8)"
            )
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < image_sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=images.device) < image_sizes[:, 1:]  # (B, W)
        inside = rows[:, None, :, None] & columns[:, None, None, :]  # (B, 1, H, W)
        # Work in place on contiguous planes, then convert the layout: broadcasting to channels_last is slow on a CPU.
        pixels = images.contiguous().to(self.mean.dtype).sub_(self.mean).div_(self.std).mul_(inside)
        return pixels.contiguous(memory_format=self.memory_format)

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of the backbone, also used for images; set it with `model.to(memory_format=...)`."""
        return self.backbone.memory_format


def build_model(cfg: ModelConfig, num_classes: int) -> RetinaNet:
    """Build the configured network with random weights."""
    anchors = AnchorGenerator(
        strides=cfg.anchors.strides,
        sizes=cfg.anchors.sizes,
        scales=cfg.anchors.scales,
        aspect_ratios=cfg.anchors.aspect_ratios,
        offset=cfg.anchors.offset,
        rounding=cfg.anchors.rounding,
    )
    backbone = build_backbone(cfg.backbone, levels=cfg.levels)
    numbers = level_numbers(cfg.levels)
    fpn = FeaturePyramid(backbone.out_channels, cfg.channels, p6_from=cfg.p6_from, last=numbers[-1])
    head = RetinaNetHead(
        cfg.channels,
        num_anchors=anchors.num_per_cell,
        num_classes=num_classes,
        num_convs=cfg.head_convs,
        norm=cfg.head_norm,
        num_levels=len(numbers),
        prior=cfg.prior,
        class_precision=cfg.class_precision,
        background_logit=cfg.has_background_logit,
    )
    return RetinaNet(backbone, fpn, head, anchors, mean=cfg.mean, std=cfg.std)


def build_model_for_training(cfg: ModelConfig, num_classes: int) -> RetinaNet:
    """Build the configured network and load its pretrained backbone weights, if any are configured.

    Raises:
        InputError: the pretrained weights are unknown, cannot be downloaded or read, or belong to a different network.
    """
    model = build_model(cfg, num_classes)
    if cfg.backbone.weights != "none":
        model.backbone.load_pretrained(cfg.backbone.weights)
    return model
