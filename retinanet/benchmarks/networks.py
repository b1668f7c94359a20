"""Build our detector and torchvision's with the same weights, and inputs for both."""

import copy

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinanet.benchmarks.settings import Settings
from retinanet.config import ModelConfig, PostprocessConfig, ResNetConfig
from retinanet.data.collate import pad_targets
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.runtime.device import memory_format_for
from retinanet.structures import Targets

CHANNELS = 256
TEXTURE_STEPS = (1, 4, 16, 64)  # cell sizes of the noise, pixels


class Scene:
    """Random images with random objects, in the input format of each detector.

    Args:
        num_boxes: number of objects per image.
    """

    def __init__(self, batch: int, height: int, width: int, classes: int, *, num_boxes: int = 10, device: torch.device):
        random = torch.Generator().manual_seed(0)
        self.size = (height, width)
        images = textures(batch, height, width, random)
        truths = [random_objects(num_boxes, height, width, classes, random) for _ in range(batch)]
        no_crowd = torch.zeros(num_boxes, dtype=torch.bool)
        self.images = images.to(device)  # (B, 3, H, W) uint8
        self.image_sizes = torch.tensor([[height, width]] * batch, device=device)
        self.targets: Targets = pad_targets([(boxes, labels, no_crowd) for boxes, labels in truths]).to(device)
        self.float_images = list((images.float() / 255).to(device))  # B x (3, H, W), 0..1
        self.objects = [{"boxes": boxes.to(device), "labels": labels.to(device)} for boxes, labels in truths]


def textures(batch: int, height: int, width: int, random: torch.Generator) -> Tensor:
    """Generate images of noise at several scales, to vary the input of every pyramid level: (B, 3, H, W) uint8."""
    total = torch.zeros(batch, 3, height, width)
    for step in TEXTURE_STEPS:
        coarse = torch.randn(batch, 3, -(-height // step), -(-width // step), generator=random)
        total += F.interpolate(coarse, size=(height, width), mode="nearest")
    return (128 + 32 * total).clamp(0, 255).to(torch.uint8)


def random_objects(count: int, height: int, width: int, classes: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Generate boxes (count, 4) inside the image, with log-uniform sides of at least 16 pixels, and labels (count,)."""
    limits = torch.tensor([width, height], dtype=torch.float32)
    smallest = torch.minimum(torch.tensor(16.0), limits / 2)
    sides = smallest * (limits * 0.9 / smallest) ** torch.rand(count, 2, generator=random)
    corners = torch.rand(count, 2, generator=random) * (limits - sides)
    return torch.cat([corners, corners + sides], dim=1), torch.randint(classes, (count,), generator=random)


def calibrated_backbone(name: str) -> dict[str, Tensor]:
    """Create ResNet weights: random convolutions, and batch norm statistics measured on random input.

    With the initial batch norm statistics, the activations of a random network would explode or vanish.
    """
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # use the statistics of a single batch
    with torch.no_grad():
        network(torch.randn(4, 3, 224, 224))
    state = network.state_dict()
    return {
        key: value
        for key, value in state.items()
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked")
    }


def our_network(backbone: str, classes: int, settings: Settings) -> RetinaNet:
    """Build our detector with a calibrated backbone, on the device and in the memory format that a run would use."""
    state = calibrated_backbone(backbone)
    model = bare_network(backbone, classes)
    model.backbone.load_state_dict(state)
    return model.to(device=settings.device, memory_format=memory_format_for(settings.device, settings.dtype))


def bare_network(backbone: str, classes: int) -> RetinaNet:
    """Build our detector with all weights trained, frozen norms, and P6 from P5, as in `retinanet_resnet50_fpn`."""
    cfg = ModelConfig(
        backbone=ResNetConfig(name=backbone, weights="none", norm="frozen", frozen_stages=0), p6_from="p5"
    )
    return build_model(cfg, classes)


def torchvision_network(
    ours: RetinaNet, backbone: str, size: tuple[int, int], *, skip_resize: bool
) -> TorchvisionRetinaNet:
    """Build torchvision's RetinaNet with the same architecture and our weights.

    The result equals `retinanet_resnet50_fpn`, which supports neither other backbones nor frozen norms without
    pretrained weights.

    Args:
        size: height and width of the images, which torchvision's resizing leaves unchanged.
        skip_resize: skip resizing in training. In evaluation, torchvision always resizes, which makes a copy.
    """
    extractor = plain_extractor(ours, backbone, FrozenBatchNorm2d)
    result = TorchvisionRetinaNet(
        extractor,
        ours.head.num_classes,
        min_size=min(size),
        max_size=max(size),
        detections_per_img=PostprocessConfig().max_detections,
        _skip_resize=skip_resize,
    )
    pairs = [
        (result.head.classification_head.conv, result.head.classification_head.cls_logits, ours.head.class_subnet),
        (result.head.regression_head.conv, result.head.regression_head.bbox_reg, ours.head.box_subnet),
    ]
    for blocks, last, subnet in pairs:
        *convolutions, our_last = (layer for layer in subnet if isinstance(layer, nn.Conv2d))
        for block, convolution in zip(blocks, convolutions, strict=True):
            block[0].load_state_dict(convolution.state_dict())
        last.load_state_dict(our_last.state_dict())
    return result


def plain_extractor(ours: RetinaNet, backbone: str, norm: type[nn.Module]) -> nn.Module:
    """Build torchvision's backbone and FPN with our weights: (B, 3, H, W) -> five feature maps by name."""
    result = resnet_fpn_backbone(
        backbone_name=backbone,
        weights=None,
        norm_layer=norm,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(CHANNELS, CHANNELS),
    )
    result.body.load_state_dict(ours.backbone.state_dict())
    for blocks, convolutions in (
        (result.fpn.inner_blocks, ours.fpn.laterals),
        (result.fpn.layer_blocks, ours.fpn.outputs),
    ):
        for block, convolution in zip(blocks, convolutions, strict=True):
            block[0].load_state_dict(convolution.state_dict())
    result.fpn.extra_blocks.p6.load_state_dict(ours.fpn.p6.state_dict())
    result.fpn.extra_blocks.p7.load_state_dict(ours.fpn.p7.state_dict())
    return result


def tuned_network(theirs: TorchvisionRetinaNet, settings: Settings) -> TorchvisionRetinaNet:
    """Copy a network to the faster memory format, as for ours: channels last, except for float32 on AVX2."""
    return copy.deepcopy(theirs).to(memory_format=memory_format_for(settings.device, settings.dtype))


def compiled_network(theirs: TorchvisionRetinaNet, settings: Settings) -> TorchvisionRetinaNet:
    """`tuned_network` with only backbone and head compiled, because the rest has data-dependent branches."""
    result = tuned_network(theirs, settings)
    result.backbone.compile()
    result.head.compile()
    return result
