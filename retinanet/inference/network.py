"""A trained network made ready for prediction: norms folded away, one precision, compiled if asked."""

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from retinanet.model.folded_conv import scale_and_shift, scale_filters
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.device import memory_format_for, require_compiler
from retinanet.structures import HeadOutputs

MAX_SHAPES = 256  # compiled for in one process; for one more, torch raises an error

Outputs = tuple[list[Tensor], list[Tensor]]


class InferenceModel(nn.Module):
    """A `RetinaNet` to predict with, called like one. Made by `inference_model`.

    Args:
        model: on its device and in its precision, without anything to learn.
        compile: what lies between normalised images and logits is compiled anew for every (B, H, W).
    """

    def __init__(self, model: RetinaNet, *, compile: bool):
        super().__init__()
        self.model = model
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self._outputs = compiled_outputs(self.device) if compile else RetinaNet.outputs

    # Whatever mode the caller is in, this is one, for which the network is compiled once.
    @torch.inference_mode(False)
    @torch.no_grad()
    def forward(self, images: Tensor, image_sizes: Tensor) -> HeadOutputs:
        """uint8 (B, 3, H, W) with sizes (B, 2) inside the padding -> predictions for every anchor, in `dtype`."""
        with torch.autocast(self.device.type, enabled=False):
            pixels = self.model.normalise(images, image_sizes).to(self.dtype)
            class_logits, box_deltas = self._outputs(self.model, pixels)
        return HeadOutputs(
            class_logits, box_deltas, self.model.anchors(images.shape[-2], images.shape[-1], images.device)
        )


def compiled_outputs(device: torch.device) -> Callable[[RetinaNet, Tensor], Outputs]:
    """`RetinaNet.outputs`, compiled for each model and shape when it is first called with them.

    On a CPU weights become constants, packed once for the kernel that uses them. On CUDA the kernels of a call start
    as one graph, which writes over what the call before returned; so a copy is returned.
    """
    on_cuda = device.type == "cuda"
    options: dict[str, Any] | None = {"triton.cudagraphs": True} if on_cuda else None
    run = torch.compile(RetinaNet.outputs, fullgraph=True, dynamic=False, options=options)

    def call(model: RetinaNet, pixels: Tensor) -> Outputs:
        with (
            torch.compiler.config.patch(recompile_limit=MAX_SHAPES),  # type: ignore[attr-defined]
            # As an option of torch.compile it comes too late: weights are then inputs already (torch 2.14.1).
            inductor_config.patch(freezing=device.type == "cpu"),
        ):
            class_logits, box_deltas = run(model, pixels)
        if on_cuda:
            return [level.clone() for level in class_logits], [level.clone() for level in box_deltas]
        return class_logits, box_deltas

    return call


def inference_model(model: RetinaNet, *, dtype: torch.dtype, compile: bool) -> InferenceModel:
    """A copy of a network for prediction alone, on the same device; the network stays as it is.

    Args:
        dtype: of weights and activations. Images are normalised in the precision of `model` before.
        compile: pays a minute or two for each new shape of a batch; see `warm_up`.

    Raises:
        InputError: `compile` without what torch.compile needs on this device.
    """
    if compile:
        require_compiler(next(model.parameters()).device, "inference.compile")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    fold_norms_(model)
    memory_format = memory_format_for(next(model.parameters()).device, dtype)
    for part in model.children():  # backbone, pyramid and head, but not the mean and std of images
        part.to(dtype=dtype)
        part.to(memory_format=memory_format)
    return InferenceModel(model, compile=compile).eval()


@torch.no_grad()
def fold_norms_(module: nn.Module) -> None:
    """Put every batch norm, as it is in evaluation, into the convolution before it, and nothing in its own place."""
    for parent in list(module.modules()):
        # In torchvision's networks, the norm after a convolution is the module registered after it.
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
    """Run each (B, H, W) on empty images, so that what happens once for a shape has happened: above all compiling."""
    device = model.device
    runs = 2 if device.type == "cuda" else 1  # the first compiles, the second records the graph of kernels
    for batch, height, width in shapes:
        images = torch.zeros(batch, 3, height, width, dtype=torch.uint8, device=device)
        image_sizes = torch.tensor([[height, width]] * batch, device=device)
        for _ in range(runs):
            model(images, image_sizes)
