"""Prepare a trained network for inference: fold norms, convert to one precision, optionally compile."""

import copy
import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config

from retinanet.config.custom import part_name
from retinanet.errors import InputError
from retinanet.inference.folding import fix_level_norms_, fold_norms_
from retinanet.model.retinanet import RetinaNet, is_retinanet
from retinanet.model.timm_layout import small_side
from retinanet.runtime.device import autocast, memory_format_for, require_compiler
from retinanet.structures import HeadOutputs

MAX_SHAPES = 256  # maximum number of shapes compiled per process; torch raises an error if there are more

Outputs = tuple[list[Tensor], ...]


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
        outputs = type(model).outputs
        self._outputs = compiled_outputs(outputs, self.device) if compile else outputs

    # Use the same autograd mode for every caller, so that each shape is compiled only once.
    @torch.inference_mode(False)
    @torch.no_grad()
    def forward(self, images: Tensor, image_sizes: Tensor) -> HeadOutputs:
        """Compute class logits and box deltas for every anchor, in `dtype`; the arguments are as for `RetinaNet`."""
        with torch.autocast(self.device.type, enabled=False):
            pixels = self.model.normalise(images, image_sizes).to(self.dtype)
            class_logits, box_deltas, *quality = self._outputs(self.model, pixels)
        anchors = self.model.anchors(images.shape[-2], images.shape[-1], images.device)
        return HeadOutputs(class_logits, box_deltas, anchors, *quality)


def compiled_outputs(
    outputs: Callable[[RetinaNet, Tensor], Outputs], device: torch.device
) -> Callable[[RetinaNet, Tensor], Outputs]:
    """Return a version of the method `outputs` of a model that is compiled on the first call for each model and shape.

    On a CPU, weights become constants, packed once for the kernels that use them. On CUDA, the kernels of a call are
    launched as one graph, which overwrites the outputs of the previous call. The function therefore returns copies.
    """
    on_cuda = device.type == "cuda"
    options: dict[str, Any] | None = {"triton.cudagraphs": True} if on_cuda else None
    run = torch.compile(outputs, fullgraph=True, dynamic=False, options=options)

    def call(model: RetinaNet, pixels: Tensor) -> Outputs:
        with (
            torch.compiler.config.patch(recompile_limit=MAX_SHAPES),  # type: ignore[attr-defined]
            # As a torch.compile option, freezing takes effect too late: weights are already inputs (torch 2.14.1).
            inductor_config.patch(freezing=device.type == "cpu"),
        ):
            levels = run(model, pixels)
        return tuple([level.clone() for level in kind] for kind in levels) if on_cuda else levels

    return call


class CustomInferenceModel(nn.Module):
    """A user's model prepared for inference, with the same call signature: weights in float32, run under autocast."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model = model
        self.device, self.dtype = next(model.parameters()).device, dtype

    @torch.inference_mode(False)
    @torch.no_grad()
    def forward(self, images: Tensor, image_sizes: Tensor) -> HeadOutputs:
        """Compute raw outputs; the arguments are as for `Detector`."""
        with autocast(self.device, self.dtype):
            outputs: HeadOutputs = self.model(images, image_sizes)
        return outputs


def inference_model(model: nn.Module, *, dtype: torch.dtype, compile: bool) -> InferenceModel | CustomInferenceModel:
    """Copy a network for inference on the same device, leaving the original unchanged.

    Args:
        model: a `RetinaNet`, or a user's model, which is neither folded nor compiled.
        dtype: dtype of weights and activations. Images are normalised in the precision of `model`, then converted.
        compile: compile the network, which takes a minute or two for each new batch shape; see `warm_up`.

    Raises:
        InputError: `compile` is set and torch.compile lacks a compiler for this device, or the model is a user's.
    """
    if not is_retinanet(model):
        if compile:
            raise InputError(f"inference.compile: {part_name(model)} is not compiled; call torch.compile in the model")
        return CustomInferenceModel(copy.deepcopy(model).eval().requires_grad_(False), dtype).eval()
    if compile:
        require_compiler(next(model.parameters()).device, "inference.compile")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    fix_level_norms_(model.head)
    fold_norms_(model, partial(sample_outputs, model))
    memory_format = memory_format_for(next(model.parameters()).device, dtype)
    for part in model.children():  # backbone, pyramid and head, but not the image mean and std
        part.to(dtype=dtype)
        part.to(memory_format=memory_format)
    return InferenceModel(model, compile=compile).eval()


def sample_outputs(model: RetinaNet) -> list[Tensor]:
    """Compute feature maps and head outputs for a small image of random values."""
    side = small_side(model.backbone.divisor)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, model.in_channels, side, side, generator=generator)
    weight = next(model.parameters())
    features: list[Tensor] = []
    # Feature maps show differences that the biases of the head would hide.
    handle = model.get_submodule("backbone").register_forward_hook(lambda backbone, images, maps: features.extend(maps))
    try:
        outputs = model.outputs(pixels.to(weight.device, weight.dtype, memory_format=model.memory_format))
    finally:
        handle.remove()
    return [*features, *itertools.chain.from_iterable(outputs)]


def warm_up(model: InferenceModel | CustomInferenceModel, shapes: Iterable[tuple[int, int, int, int]]) -> None:
    """Run the network on blank images of each shape (B, C, H, W), to do one-time work such as compilation early."""
    device = model.device
    runs = 2 if device.type == "cuda" else 1  # the first run compiles, the second records the CUDA graph
    for batch, channels, height, width in shapes:
        images = torch.zeros(batch, channels, height, width, dtype=torch.uint8, device=device)
        image_sizes = torch.tensor([[height, width]] * batch, device=device)
        for _ in range(runs):
            model(images, image_sizes)
