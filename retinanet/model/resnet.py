"""ResNet and ResNeXt (He et al. 2016, Xie et al. 2017) as feature extractors, from torchvision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from retinanet.errors import InputError
from retinanet.model.norm import Norm, norm_layer


class ResNet(nn.Module):
    """C3, C4 and C5 of a torchvision residual network.

    Its state dict has torchvision's names without `fc`, so ImageNet weights load as they are.

    Args:
        name: a residual network of torchvision, such as "resnet50" or "resnext101_32x8d".
        norm: "frozen" keeps the statistics of the weights and learns nothing; "batch", "sync" and "group" learn.
        frozen_stages: how many leading parts never change: 1 is the stem, 2 the stem and `layer1`, up to 5 for all.
        checkpoint_activations: keep the input of each residual block alone for the backward pass, and compute the block
            again there: less memory, a third more time in the backbone, the same gradients.
    """

    def __init__(self, name: str, *, norm: Norm, frozen_stages: int, checkpoint_activations: bool = False):
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        full = getattr(torchvision.models, name)(weights=None, norm_layer=norm_layer(norm))
        self.conv1, self.bn1, self.maxpool = full.conv1, full.bn1, full.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = full.layer1, full.layer2, full.layer3, full.layer4
        self.out_channels = tuple(full.fc.in_features // shrink for shrink in (4, 2, 1))
        stages = [nn.ModuleList([self.conv1, self.bn1]), self.layer1, self.layer2, self.layer3, self.layer4]
        self._frozen = stages[:frozen_stages]  # a plain list: the modules are registered above
        for stage in self._frozen:
            stage.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised -> C3, C4, C5 of strides 8, 16, 32."""
        x = self.maxpool(F.relu_(conv_norm(images, self.conv1, self.bn1)))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = self._block(x, block)
            features.append(x)
        return features[1:]

    def _block(self, x: Tensor, block: BasicBlock | Bottleneck) -> Tensor:
        learns = x.requires_grad or block.conv1.weight.requires_grad  # else nothing is kept anyway
        if not (self.checkpoint_activations and torch.is_grad_enabled() and learns):
            return residual(x, block)
        if torch.compiler.is_compiling():  # a graph moves statistics once, whatever it computes again
            return checkpoint(residual, x, block, use_reentrant=False, preserve_rng_state=False)
        return checkpoint(
            residual, x, block, use_reentrant=False, preserve_rng_state=False, context_fn=partial(_once, block)
        )

    def train(self, mode: bool = True) -> "ResNet":
        """Frozen parts stay in evaluation mode, so that their batch statistics do not move either."""
        super().train(mode)
        for stage in self._frozen:
            stage.eval()
        return self


def residual(x: Tensor, block: BasicBlock | Bottleneck) -> Tensor:
    """What torchvision's block computes, in fewer passes over memory.

    Adding and ReLU write over their input: neither a convolution nor a norm keeps its output for the backward pass.
    """
    out = F.relu_(conv_norm(x, block.conv1, block.bn1))
    out = conv_norm(out, block.conv2, block.bn2)
    if isinstance(block, Bottleneck):
        out = conv_norm(F.relu_(out), block.conv3, block.bn3)
    shortcut = x if block.downsample is None else conv_norm(x, *block.downsample)
    return F.relu_(out.add_(shortcut))


def _once(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts for the two times that a checkpointed block is computed: only the first one moves running statistics."""
    return nullcontext(), _statistics_held(block)


@contextmanager
def _statistics_held(block: nn.Module) -> Iterator[None]:
    """Batch norms move copies of their running statistics, which are then forgotten."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    held = [(norm, name, tensor) for norm in norms for name, tensor in norm.named_buffers(recurse=False)]
    for norm, name, tensor in held:
        setattr(norm, name, tensor.clone())
    try:
        yield
    finally:
        for norm, name, tensor in held:
            setattr(norm, name, tensor)


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """norm(conv(x)), of a convolution without bias; a frozen norm is folded into the convolution."""
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(conv(x))
    scale, shift = scale_and_shift(norm)
    return FoldedConv2d.apply(x, conv.weight, scale, shift, (conv.stride, conv.padding, conv.dilation, conv.groups))


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm with fixed statistics as x * scale + shift, each of shape (channels,)."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class FoldedConv2d(torch.autograd.Function):
    """conv2d(x, weight * scale) + shift, where `scale` and `shift` are given per output channel and learn nothing.

    Autograd would keep weight * scale for the backward pass, a second copy of the network's weights. This keeps
    `weight`, which is there anyway, and multiplies again. In autocast the product is rounded once. Where maps have
    fewer places than a filter has weights, the convolution's output is multiplied, and rounded before and after.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, geometry: tuple) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W'); `geometry` is stride, padding, dilation and groups."""
        ctx.scales_weight = scales_weight(x, weight, geometry[0])
        if ctx.scales_weight:
            out = F.conv2d(x, scaled(weight, scale), shift, *geometry)
        else:
            out = F.conv2d(x, weight, None, *geometry)
            torch.addcmul(shift[:, None, None], out, scale[:, None, None], out=out)
        ctx.geometry = geometry
        ctx.save_for_backward(x.to(out.dtype), weight, scale)  # autocast decides the type
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        if ctx.scales_weight:
            used = scaled(weight, scale)
        else:
            used, grad = weight, (grad * scale[:, None, None]).to(grad.dtype)
        grad_x, grad_used, _ = torch.ops.aten.convolution_backward(
            grad, x, used.to(x.dtype), None, stride, padding, dilation, False, [0, 0], groups,
            [*ctx.needs_input_grad[:2], False],
        )  # fmt: skip
        if grad_used is None:
            grad_weight = None
        else:
            grad_weight = scaled(grad_used, scale) if ctx.scales_weight else grad_used.to(weight.dtype)
        return grad_x, grad_weight, None, None, None


def scales_weight(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> bool:
    """Whether there is less to multiply in the weights than in what comes of (B, C_in, H, W).

    Always in a compiled graph, which serves all sizes.
    """
    if torch.compiler.is_compiling():
        return True
    places = x.shape[0] * (x.shape[2] // stride[0]) * (x.shape[3] // stride[1])
    return places >= weight[0].numel()


def scaled(weight: Tensor, scale: Tensor) -> Tensor:
    """Each output channel of (C_out, C_in, k, k) times its factor, in the wider of the two types."""
    return weight * scale[:, None, None, None]


def load_backbone_weights(backbone: ResNet, name: str, weights: str) -> None:
    """Load ImageNet weights by name or from a file.

    Args:
        backbone: changed in place.
        name: its architecture.
        weights: "imagenet" for torchvision's newest, one of its names such as "IMAGENET1K_V1", or a path.

    Raises:
        InputError: the name is not known, the download failed, or the file does not hold this network.
    """
    if weights == "imagenet" or weights.startswith("IMAGENET"):
        state, source = _download(name, weights)
    else:
        state, source = _read(Path(weights)), weights
    # The classifier has no place here; a normalisation without running statistics has no use for the counter.
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    wanted = backbone.state_dict()
    state = {key: value for key, value in state.items() if key in wanted or not key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in wanted]
    misshapen = [key for key in state if key in wanted and state[key].shape != wanted[key].shape]
    if missing or unknown or misshapen:
        raise InputError(
            f"{source}: does not hold the weights of {name}: {len(missing)} missing {missing[:3]}, {len(unknown)} "
            f"unknown {unknown[:3]}, {len(misshapen)} of another shape {misshapen[:3]}; set "
            "model.backbone.name to the network of the file, model.backbone.norm to frozen, batch or sync for ImageNet weights, or "
            "model.backbone.weights to none"
        )
    backbone.load_state_dict(state, strict=False)


def _download(name: str, weights: str) -> tuple[dict[str, Tensor], str]:
    known = torchvision.models.get_model_weights(name)
    wanted = "DEFAULT" if weights == "imagenet" else weights
    if wanted not in known.__members__:
        names = ", ".join(["imagenet", *(key for key in known.__members__ if key != "DEFAULT")])
        raise InputError(f"model.backbone.weights: {weights} is not known for {name}; known are {names}")
    url = known[wanted].url
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        return known[wanted].get_state_dict(progress=True, check_hash=True), url
    except Exception as error:  # network, disk, hash, or a broken file that is there already, each in its own way
        raise InputError(
            f"model.backbone.weights: {weights} for {name} could not be downloaded from {url} to {target}, or what is "
            f"there is broken: {_reason(error)}; put the file there by hand, name a file with model.backbone.weights=PATH, or "
            "train from scratch with model.backbone.weights=none model.backbone.frozen_stages=0 model.backbone.norm=batch"
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(
            f"model.backbone.weights: {path} is not there; name an existing file, imagenet, or none to train from "
            "scratch"
        ) from None
    except Exception as error:  # torch.load raises a different type for each way a file can be broken
        raise InputError(
            f"model.backbone.weights: {path} is not a file of weights: {_reason(error)}; give one that "
            "torch.save(module.state_dict(), path) wrote"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"model.backbone.weights: {path} holds no plain state dict (names to tensors)")
    return state


def _reason(error: Exception) -> str:
    """The first sentence: what follows it in torch's messages is advice that does not apply, some of it unsafe."""
    return f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0]
