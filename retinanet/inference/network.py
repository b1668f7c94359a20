"""Prepare a trained network for inference: fold norms, convert to one precision, optionally compile."""

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from retinanet.model.folded_conv import ScaleAndShift, scale_and_shift, scale_filters
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.device import memory_format_for, require_compiler
from retinanet.structures import HeadOutputs

MAX_SHAPES = 256  # maximum number of shapes compiled per process; torch raises an error if there are more

Outputs = tuple[list[Tensor], list[Tensor]]


class InferenceModel(nn.Module):
    """A `RetinaNet` prepared for inference, with the same call signature; created by `inference_model`.

    Args:
        model: the network, on its final device and in its final precision, without trainable parameters.
        compile: compile the part from normalised images to logits, once for each (B, H, W).
    """

    def __init__(self, model: RetinaNet, *, compile: bool):
        super().__init__()
        self.model = model
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self._outputs = compiled_outputs(self.device) if compile else RetinaNet.outputs

    # Use the same autograd mode for every caller, so that each shape is compiled only once.
    @torch.inference_mode(False)
    @torch.no_grad()
    def forward(self, images: Tensor, image_sizes: Tensor) -> HeadOutputs:
        """Compute class logits and box deltas for every anchor, in `dtype`; the arguments are as for `RetinaNet`."""
        with torch.autocast(self.device.type, enabled=False):
            pixels = self.model.normalise(images, image_sizes).to(self.dtype)
            class_logits, box_deltas = self._outputs(self.model, pixels)
        return HeadOutputs(
            class_logits, box_deltas, self.model.anchors(images.shape[-2], images.shape[-1], images.device)
        )


def compiled_outputs(device: torch.device) -> Callable[[RetinaNet, Tensor], Outputs]:
    """Return a version of `RetinaNet.outputs` that is compiled on the first call for each model and shape.

    On a CPU, weights become constants, packed once for the kernels that use them. On CUDA, the kernels of a call are
    launched as one graph, which overwrites the outputs of the previous call. The function therefore returns copies.
    """
    on_cuda = device.type == "cuda"
    options: dict[str, Any] | None = {"triton.cudagraphs": True} if on_cuda else None
    run = torch.compile(RetinaNet.outputs, fullgraph=True, dynamic=False, options=options)

    def call(model: RetinaNet, pixels: Tensor) -> Outputs:
        with (
            torch.compiler.config.patch(recompile_limit=MAX_SHAPES),  # type: ignore[attr-defined]
            # As a torch.compile option, freezing takes effect too late: weights are already inputs (torch 2.14.1).
            inductor_config.patch(freezing=device.type == "cpu"),
        ):
            class_logits, box_deltas = run(model, pixels)
        if on_cuda:
            return [level.clone() for level in class_logits], [level.clone() for level in box_deltas]
        return class_logits, box_deltas

    return call


def inference_model(model: RetinaNet, *, dtype: torch.dtype, compile: bool) -> InferenceModel:
    """Copy a network for inference on the same device, leaving the original unchanged.

    Args:
        dtype: dtype of weights and activations. Images are normalised in the precision of `model`, then converted.
        compile: compile the network, which takes a minute or two for each new batch shape; see `warm_up`.

    Raises:
        InputError: `compile` is set and torch.compile lacks a compiler for this device.
    """
    if compile:
        require_compiler(next(model.parameters()).device, "inference.compile")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    fix_level_norms_(model.head)
    fold_norms_(model)
    memory_format = memory_format_for(next(model.parameters()).device, dtype)
    for part in model.children():  # backbone, pyramid and head, but not the image mean and std
        part.to(dtype=dtype)
        part.to(memory_format=memory_format)
    return InferenceModel(model, compile=compile).eval()


@torch.no_grad()
def fix_level_norms_(head: nn.Module) -> None:
    """Replace the batch norms of each pyramid level, in evaluation mode, with a scale and a shift.

    They cannot be folded into the convolutions, which all levels share. A low precision rounds only the scale and the
    shift, not the running statistics.
    """
    for norms in list(head.modules()):
        if isinstance(norms, nn.ModuleList):
            for level, norm in enumerate(norms):
                if isinstance(norm, _BatchNorm):
                    norms[level] = ScaleAndShift(*scale_and_shift(norm))


@torch.no_grad()
def fold_norms_(module: nn.Module) -> None:
    """Fold every batch norm, in evaluation mode, into the preceding convolution, and replace it with `Identity`."""
    for parent in list(module.modules()):
        # In torchvision's networks, the norm applied after a convolution is also registered right after it.
        for (_, conv), (name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm | FrozenBatchNorm2d):
                assert conv.bias is None, parent
                scale, shift = scale_and_shift(norm)
                conv.weight.copy_(scale_filters(conv.weight, scale))
                conv.bias = nn.Parameter(shift, requires_grad=False)
                setattr(parent, name, nn.Identity())
    left = [name for name, part in module.named_modules() if isinstance(part, _BatchNorm | FrozenBatchNorm2d)]
    assert not left, left


def warm_up(model: InferenceModel, shapes: Iterable[tuple[int, int, int]]) -> None:
    """Run the network on blank images of each shape (B, H, W), to do one-time work such as compilation early."""
    device = model.device
    runs = 2 if device.type == "cuda" else 1  # the first run compiles, the second records the CUDA graph
    for batch, height, width in shapes:
        images = torch.zeros(batch, 3, height, width, dtype=torch.uint8, device=device)
        image_sizes = torch.tensor([[height, width]] * batch, device=device)
        for _ in range(runs):
            model(images, image_sizes)
