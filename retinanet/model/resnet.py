"""ResNet and ResNeXt backbones (He et al. 2016, Xie et al. 2017), built from torchvision's blocks."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from retinanet.config.model import Norm
from retinanet.model.folded_conv import conv_norm
from retinanet.model.norm import EPS, norm_layer
from retinanet.model.pretrained import load_torchvision_weights
from retinanet.model.small_resnet import small_resnet


class ResNet(nn.Module):
    """A residual network that outputs C3, C4 and C5, or C2 to C5; implements `retinanet.model.backbone.Backbone`.

    Its state dict uses torchvision's names, without `fc`, so ImageNet weights load unchanged.

    Args:
        name: name of a torchvision residual network, such as "resnet50" or "resnext101_32x8d", or "resnet10_half", a
            small network defined in this package.
        norm: "frozen" keeps the statistics of the pretrained weights and has no trainable parameters; "batch", "sync"
            and "group" are trained.
        norm_eps: constant that is added to the variance in each norm.
        stride_in_1x1: blocks that halve the resolution do so in their first convolution, 1x1, instead of the second,
            3x3. Only for networks of `Bottleneck` blocks.
        frozen_stages: number of leading stages that are never updated: 1 freezes the stem, 2 the stem and `layer1`, and
            so on up to 5 for all.
        out_strides: strides of the feature maps to return, ending with 32: 4 is that of C2, the output of `layer1`.
        checkpoint_activations: save only the input of each residual block, and recompute the block in the backward
            pass. This needs less memory, takes a third more time in the backbone, and gives identical gradients.
        in_channels: number of channels of the images.
    """

    divisor = 1

    def __init__(
        self,
        name: str,
        *,
        norm: Norm,
        frozen_stages: int,
        norm_eps: float = EPS,
        stride_in_1x1: bool = False,
        checkpoint_activations: bool = False,
        out_strides: tuple[int, ...] = (8, 16, 32),
        in_channels: int = 3,
    ):
        super().__init__()
        self.name = name
        self.strides = out_strides
        self.frozen_stages = frozen_stages
        self.checkpoint_activations = checkpoint_activations
        full: Any
        if name == "resnet10_half":
            full = small_resnet(norm_layer(norm, norm_eps))
        else:
            full = getattr(torchvision.models, name)(weights=None, norm_layer=norm_layer(norm, norm_eps))
        self.conv1, self.bn1, self.maxpool = full.conv1, full.bn1, full.maxpool
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, self.conv1.out_channels, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        self.layer1, self.layer2, self.layer3, self.layer4 = full.layer1, full.layer2, full.layer3, full.layer4
        if stride_in_1x1:
            for stage in (self.layer2, self.layer3, self.layer4):
                move_stride_to_1x1(stage[0])
        returned = (self.layer1, self.layer2, self.layer3, self.layer4)[-len(out_strides) :]
        self.out_channels = tuple(_out_channels(stage[-1]) for stage in returned)
        for module in self._frozen():
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps with the strides in `strides` from normalised images (B, C, H, W)."""
        x = self.maxpool(F.relu_(conv_norm(images, self.conv1, self.bn1)))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = self._block(x, block)
            features.append(x)
        return features[-len(self.strides) :]

    def _block(self, x: Tensor, block: BasicBlock | Bottleneck) -> Tensor:
        learns = x.requires_grad or block.conv1.weight.requires_grad  # otherwise nothing is saved anyway
        if not (self.checkpoint_activations and torch.is_grad_enabled() and learns):
            return residual(x, block)
        if torch.compiler.is_compiling():  # a compiled graph updates statistics once, even if it recomputes
            return checkpoint(residual, x, block, use_reentrant=False, preserve_rng_state=False)
        return checkpoint(
            residual, x, block, use_reentrant=False, preserve_rng_state=False, context_fn=partial(_contexts, block)
        )

    def load_pretrained(self, weights: str) -> None:
        """Load ImageNet weights by name or from a file; see `load_torchvision_weights`."""
        load_torchvision_weights(self, self.name, weights)

    def train(self, mode: bool = True) -> "ResNet":
        """Set training or evaluation mode.

        Frozen stages stay in evaluation mode, which also freezes their running statistics.
        """
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def stages(self) -> list[list[nn.Parameter]]:
        """The parameters of the stem and of the four residual stages."""
        return [[weight for module in stage for weight in module.parameters()] for stage in self._stages()]

    def _stages(self) -> list[list[nn.Module]]:
        # Looked up on every call, because modules may be replaced, such as norms by synchronised ones.
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def _frozen(self) -> list[nn.Module]:
        return [module for stage in self._stages()[: self.frozen_stages] for module in stage]

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of the weights: `torch.channels_last` or `torch.contiguous_format`."""
        is_last = self.conv1.weight.is_contiguous(memory_format=torch.channels_last)
        return torch.channels_last if is_last else torch.contiguous_format


def move_stride_to_1x1(block: Bottleneck) -> None:
    """Move the stride of a block from its 3x3 convolution to the 1x1 convolution before it."""
    block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def residual(x: Tensor, block: BasicBlock | Bottleneck) -> Tensor:
    """Compute torchvision's residual block in fewer passes over memory.

    Addition and ReLU overwrite their input. This is safe, since neither convolutions nor norms save their output for
    the backward pass.
    """
    out = F.relu_(conv_norm(x, block.conv1, block.bn1))
    out = conv_norm(out, block.conv2, block.bn2)
    if isinstance(block, Bottleneck):
        out = conv_norm(F.relu_(out), block.conv3, block.bn3)
    shortcut = x if block.downsample is None else conv_norm(x, *block.downsample)
    return F.relu_(out.add_(shortcut))


def _out_channels(block: BasicBlock | Bottleneck) -> int:
    return (block.conv3 if isinstance(block, Bottleneck) else block.conv2).out_channels


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for a block's forward pass and recomputation: only the forward pass updates running statistics."""
    return nullcontext(), _keep_statistics(block)


@contextmanager
def _keep_statistics(block: nn.Module) -> Iterator[None]:
    """Let batch norms update copies of their running statistics, and discard the copies afterwards."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    kept = [(norm, name, tensor) for norm in norms for name, tensor in norm.named_buffers(recurse=False)]
    for norm, name, tensor in kept:
        setattr(norm, name, tensor.clone())
    try:
        yield
    finally:
        for norm, name, tensor in kept:
            setattr(norm, name, tensor)
