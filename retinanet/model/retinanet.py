"""The complete network, from images to `HeadOutputs`, in training and evaluation mode."""

import logging
from collections.abc import Iterable
from typing import TypeGuard

import torch
from torch import Tensor, nn

from retinanet.config import ModelConfig, TimmConfig
from retinanet.config.model import level_numbers
from retinanet.detection.anchors import AnchorGenerator
from retinanet.errors import InputError
from retinanet.model.backbone import Backbone, build_backbone
from retinanet.model.detector import Detector
from retinanet.model.fpn import FeaturePyramid
from retinanet.model.head import RetinaNetHead
from retinanet.model.timm_weights import note_on_statistics
from retinanet.structures import HeadOutputs

log = logging.getLogger(__name__)


class RetinaNet(Detector):
    """RetinaNet: backbone, feature pyramid and head (Lin et al. 2017, "Focal Loss for Dense Object Detection").

    Args:
        backbone: an `nn.Module` with the members of `Backbone`.
        head: returns class logits and box deltas, and, if it predicts the quality of boxes, `HeadOutputs.quality`.
        anchors: one generator for all pyramid levels.
        mean, std: statistics of the images, for each of the C channels, in 0..255; with pretrained weights for RGB,
            usually those of the images that the backbone was trained on.
    """

    anchors: AnchorGenerator
    mean: Tensor  # (1, C, 1, 1)
    std: Tensor  # (1, C, 1, 1)

    def __init__(
        self,
        backbone: Backbone,
        fpn: FeaturePyramid,
        head: RetinaNetHead,
        anchors: AnchorGenerator,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ):
        super().__init__()
        strides = tuple(anchors.strides)[: len(backbone.strides)]
        assert tuple(backbone.strides) == strides, f"backbone strides {backbone.strides}, anchor strides {strides}"
        self.backbone = backbone
        self.fpn = fpn
        self.head = head
        self.anchors = anchors
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> HeadOutputs:
        """Compute class logits and box deltas for every anchor.

        Args:
            images: (B, C, H, W) uint8, RGB if C is 3.
            image_sizes: (B, 2), height and width of each image without padding.

        Raises:
            InputError: `images` has the wrong dtype or shape.
        """
        class_logits, box_deltas, *quality = self.outputs(self.normalise(images, image_sizes))
        anchors = self.anchors(images.shape[-2], images.shape[-1], images.device)
        return HeadOutputs(class_logits, box_deltas, anchors, *quality)

    def outputs(self, pixels: Tensor) -> tuple[list[Tensor], ...]:
        """Compute the outputs of the head from normalised images: the part of the network that can be compiled."""
        return self.head(self.fpn(self.backbone(pixels)))

    def normalise(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Normalise images to zero mean and unit variance, with zeros in the padding, in the backbone's memory format.

        Raises:
            InputError: `images` is not uint8 (B, C, H, W).
        """
        # Floats would be ambiguous: 0..1 as in torchvision, or 0..255.
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != self.in_channels:
            rgb = "RGB " if self.in_channels == 3 else ""
            raise InputError(
                f"images are {images.dtype} {tuple(images.shape)}, expected torch.uint8 (B, {self.in_channels}, H, W), "
                f"{rgb}in 0..255; "
                "convert floats in 0..1 with (images * 255).round().to(torch.uint8)"
            )
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < image_sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=images.device) < image_sizes[:, 1:]  # (B, W)
        dtype, layout = self.mean.dtype, self.memory_format
        # Whole rows in the layout of the pixels: with one value per channel, channels last is slow on a CPU.
        mean, std = (value.expand(-1, -1, 1, width).contiguous(memory_format=layout) for value in (self.mean, self.std))
        in_row = columns[:, None, None].to(dtype).expand(-1, images.shape[1], 1, -1).contiguous(memory_format=layout)
        pixels = images.to(dtype, memory_format=layout)
        return pixels.sub_(mean).div_(std).mul_(in_row).mul_(rows[:, None, :, None].to(dtype))

    @property
    def in_channels(self) -> int:
        """C, the number of channels of the images."""
        return self.mean.shape[1]

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of the backbone, also used for images; set it with `model.to(memory_format=...)`."""
        return self.backbone.memory_format


def is_retinanet(model: nn.Module) -> TypeGuard[RetinaNet]:
    """Whether a model can run in two parts, `normalise` and `outputs`: a `RetinaNet` without a `forward` of its own."""
    return isinstance(model, RetinaNet) and type(model).forward is RetinaNet.forward


def build_model(cfg: ModelConfig, num_classes: int) -> RetinaNet:
    """Build the configured network with random weights.

    Raises:
        InputError: mean and standard deviation of the channels are not set, see `ModelConfig.require_statistics`; or
            the backbone cannot be built, see `build_backbone`.
    """
    cfg.require_statistics()
    anchors = AnchorGenerator(
        strides=cfg.anchors.strides,
        sizes=cfg.anchors.sizes,
        scales=cfg.anchors.scales,
        aspect_ratios=cfg.anchors.aspect_ratios,
        offset=cfg.anchors.offset,
        rounding=cfg.anchors.rounding,
    )
    backbone = build_backbone(cfg.backbone, in_channels=cfg.in_channels, levels=cfg.levels)
    numbers = level_numbers(cfg.levels)
    fpn = FeaturePyramid(backbone.out_channels, cfg.channels, p6_from=cfg.p6_from, last=numbers[-1])
    head = RetinaNetHead(
        cfg.channels,
        num_anchors=anchors.num_per_cell,
        num_classes=num_classes,
        num_convs=cfg.head_convs,
        norm=cfg.head_norm,
        conv_bias=cfg.head_conv_bias,
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
        if isinstance(cfg.backbone, TimmConfig):
            note = note_on_statistics(cfg.backbone.name, cfg.backbone.weights, cfg.mean, cfg.std)
            if note:
                log.warning("%s", note)
    return model


def check_padded_shapes(backbone: Backbone, shapes: Iterable[tuple[int, int]], *, name: str) -> None:
    """Check that a backbone's feature maps of padded images are as large as the grids of the anchors.

    Args:
        shapes: padded (height, width). Batches of several shapes have the largest height and the largest width.
        name: `model.backbone.name`.

    Raises:
        InputError: a side of a padded shape is not a multiple of the backbone's divisor.
    """
    sides = sorted({side for shape in shapes for side in shape})
    wrong = [side for side in sides if side % backbone.divisor]
    if wrong:
        raise InputError(
            f"data.resize: images are padded to sides of {', '.join(map(str, wrong[:3]))} pixels, where the feature "
            f"maps of {name} differ in size from the grids of the anchors; it needs multiples of {backbone.divisor}: "
            f"set data.resize.divisor={backbone.divisor}"
        )
