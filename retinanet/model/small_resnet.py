"""A small residual network for small images on a CPU: one block per stage, and half the channels of ResNet-18."""

from collections.abc import Callable

from torch import nn
from torchvision.models.resnet import BasicBlock

CHANNELS = (32, 64, 128, 256)  # per stage


def small_resnet(norm_layer: Callable[[int], nn.Module]) -> nn.Module:
    """Build the layers of `resnet10_half` with torchvision's names and initialisation."""
    network = nn.Module()
    network.conv1 = nn.Conv2d(3, CHANNELS[0], 7, stride=2, padding=3, bias=False)
    network.bn1 = norm_layer(CHANNELS[0])
    network.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
    channels = CHANNELS[0]
    for number, out in enumerate(CHANNELS, start=1):
        stride, shortcut = 1, None
        if out != channels:
            stride = 2
            shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), norm_layer(out))
        block = BasicBlock(channels, out, stride, shortcut, norm_layer=norm_layer)
        network.add_module(f"layer{number}", nn.Sequential(block))
        channels = out
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
