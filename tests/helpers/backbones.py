"""Backbones with random weights, and reference implementations of them."""

import torch
import torch.nn.functional as F
from torch import nn

from retinanet.model.resnet import ResNet

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


class ThreeConvolutions(nn.Module):
    """A minimal backbone."""

    out_channels = (4, 4, 4)
    strides = (8, 16, 32)
    divisor = 1

    def __init__(self):
        super().__init__()
        self.c3, self.c4, self.c5 = nn.Conv2d(3, 4, 9, 8, 4), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    @property
    def memory_format(self):
        is_last = self.c4.weight.is_contiguous(memory_format=torch.channels_last)
        return torch.channels_last if is_last else torch.contiguous_format

    def stages(self):
        return [list(stage.parameters()) for stage in (self.c3, self.c4, self.c5)]

    def forward(self, images):
        c3 = self.c3(images)
        c4 = self.c4(c3.relu())
        return [c3, c4, self.c5(c4.relu())]


def resnet18(norm="frozen", frozen_stages=0):
    """A ResNet-18 with fixed random weights."""
    torch.manual_seed(1)
    return ResNet("resnet18", norm=norm, frozen_stages=frozen_stages)


def spread_out(module, seed=0):
    """Give every norm of a module random statistics, weights and biases."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(norm, name, None)
            if value is not None and value.ndim == 1:
                offset = 0.5 if name in ("weight", "running_var") else -0.5
                value.data.copy_(torch.rand(value.shape, generator=generator) + offset)
    return module


def by_torchvision(backbone, images):
    """Compute C3, C4 and C5 with torchvision's own blocks."""
    x = backbone.maxpool(F.relu(backbone.bn1(backbone.conv1(images))))
    c3 = backbone.layer2(backbone.layer1(x))
    c4 = backbone.layer3(c3)
    return [c3, c4, backbone.layer4(c4)]


def features_and_gradients(forward, backbone, images):
    """Return the three feature maps, then the gradients of the images and of every trainable weight."""
    trainable = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    images = images.clone().requires_grad_()
    features = forward(images)
    loss = sum(feature.to(images.dtype).square().mean() for feature in features)
    return [*features, *torch.autograd.grad(loss, [images, *trainable])]


def saved_bytes(backbone, images):
    """Bytes that one forward pass saves for the backward pass, excluding weights and statistics."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*backbone.parameters(), *backbone.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = backbone(images)  # kept alive while addresses are compared
    assert len(features) == 3
    return sum(size for address, size in kept.items() if address not in owned)
