"""The whole network: images in, `Predictions` out, in training and in evaluation alike."""

import torch
from torch import Tensor, nn

from retinanet.config import ModelConfig
from retinanet.detection.anchors import AnchorGenerator
from retinanet.model.fpn import FeaturePyramid
from retinanet.model.head import RetinaNetHead
from retinanet.model.resnet import ResNet, load_backbone_weights
from retinanet.structures import HeadOutputs


class RetinaNet(nn.Module):
    """Backbone, pyramid and heads over anchors.

    Args:
        mean, std: of the backbone's training images, per RGB channel, in 0..255.
    """

    def __init__(
        self,
        backbone: ResNet,
        fpn: FeaturePyramid,
        head: RetinaNetHead,
        anchors: AnchorGenerator,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ):
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.head = head
        self.anchors = anchors
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> HeadOutputs:
        """uint8 (B, 3, H, W) with sizes (B, 2) inside the padding -> predictions for every anchor."""
        class_logits, box_deltas = self.outputs(self.normalise(images, image_sizes))
        return HeadOutputs(class_logits, box_deltas, self.anchors(*images.shape[-2:], images.device))

    def outputs(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits and box deltas of normalised images: what is compiled, where anything is."""
        return self.head(self.fpn(self.backbone(pixels)))

    def normalise(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Zero mean and unit spread inside the images, zero in the padding, in the memory format of the network."""
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < image_sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=images.device) < image_sizes[:, 1:]  # (B, W)
        inside = rows[:, None, :, None] & columns[:, None, None, :]  # (B, 1, H, W)
        # Plane by plane, in place, and the layout last: broadcasting to interleaved channels is slow on a CPU.
        pixels = images.contiguous().to(self.mean.dtype).sub_(self.mean).div_(self.std).mul_(inside)
        return pixels.contiguous(memory_format=self.memory_format)

    @property
    def memory_format(self) -> torch.memory_format:
        """That of the weights, which images follow: set it with `model.to(memory_format=...)`."""
        is_last = self.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
        return torch.channels_last if is_last else torch.contiguous_format


def build_model(cfg: ModelConfig, num_classes: int) -> RetinaNet:
    """The only function in model/ that reads a config. Weights of the backbone are not loaded here."""
    anchors = AnchorGenerator(
        strides=cfg.anchors.strides,
        sizes=cfg.anchors.sizes,
        scales=cfg.anchors.scales,
        aspect_ratios=cfg.anchors.aspect_ratios,
        offset=cfg.anchors.offset,
        rounding=cfg.anchors.rounding,
    )
    backbone = ResNet(
        cfg.backbone.name,
        norm=cfg.backbone.norm,
        frozen_stages=cfg.backbone.frozen_stages,
        checkpoint_activations=cfg.backbone.checkpoint_activations,
    )
    fpn = FeaturePyramid(backbone.out_channels, cfg.channels, p6_from=cfg.p6_from)
    head = RetinaNetHead(
        cfg.channels,
        num_anchors=anchors.num_per_cell,
        num_classes=num_classes,
        num_convs=cfg.head_convs,
        norm=cfg.head_norm,
        prior=cfg.prior,
        background_logit=cfg.has_background_logit,
    )
    return RetinaNet(backbone, fpn, head, anchors, mean=cfg.mean, std=cfg.std)


def build_model_for_training(cfg: ModelConfig, num_classes: int) -> RetinaNet:
    """`build_model`, with the backbone's weights as the config asks."""
    model = build_model(cfg, num_classes)
    if cfg.backbone.weights != "none":
        load_backbone_weights(model.backbone, cfg.backbone.name, cfg.backbone.weights)
    return model
