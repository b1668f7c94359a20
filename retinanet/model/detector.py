"""The interface of a model for training, evaluation and prediction, and a check of models written by users."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from retinanet.config import Config
from retinanet.config.custom import part_name
from retinanet.errors import InputError
from retinanet.structures import HeadOutputs

Anchors = Callable[[int, int, torch.device], list[Tensor]]
BLANK = (2, 128, 192)  # batch, height and width of the check: several levels, and sides that differ


class Detector(nn.Module):
    """Base class of models. Any other `nn.Module` with the same two members can be trained as well.

    `anchors(height, width, device)` returns the anchors for a padded shape, L x (H_l, W_l, a, 4) float32, in pixels.
    It must not depend on the weights: ground truth is assigned before the model runs.
    """

    anchors: Anchors

    def forward(self, images: Tensor, image_sizes: Tensor) -> HeadOutputs:
        """Compute the same raw outputs in training and in evaluation mode.

        It runs under autocast. The outputs may have any float type, and may be another NamedTuple that has the fields
        of `HeadOutputs` and more.

        Args:
            images: (B, C, H, W) uint8 with C = `model.in_channels`, RGB if C is 3, zero in the padding; normalise them
                here.
            image_sizes: (B, 2), height and width of each image without the padding.
        """
        raise NotImplementedError


def model_name(model: nn.Module) -> str:
    """Name of a user's model. For a class of this package, it includes the parts that the user has replaced."""
    own = [part_name(part) for part in model.children() if not _is_of_library(part)]
    replaced = f" with {', '.join(dict.fromkeys(own))}" if own and _is_of_library(model) else ""
    return part_name(model) + replaced


def _is_of_library(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] in ("retinanet", "torch", "torchvision")


@torch.no_grad()
def has_background_logit(model: Detector, num_classes: int, *, in_channels: int = 3) -> bool:
    """Run a user's model on two blank images, check its outputs, and return whether they have a logit for background.

    Args:
        model: on any device; its mode and statistics do not change.
        in_channels: number C of channels of the images.

    Raises:
        InputError: the model lacks `anchors`, is made for another number of channels, or its outputs are not as
            `Detector` and `HeadOutputs` document.
    """
    name = model_name(model)
    if not callable(getattr(model, "anchors", None)):
        raise InputError(f"{name}: has no method anchors(height, width, device); see retinanet.model.detector.Detector")
    weight = next(model.parameters(), None)
    if weight is None:
        raise InputError(f"{name}: has no parameters, so there is nothing to train")
    expected_channels = getattr(model, "in_channels", in_channels)  # a `RetinaNet` has this attribute
    if expected_channels != in_channels:
        raise InputError(
            f"{name}: is made for images of {expected_channels} channels, but model.in_channels is {in_channels}; set "
            f"model.in_channels={expected_channels}, and one model.mean and model.std per channel"
        )
    batch, height, width = BLANK
    images = torch.zeros(batch, in_channels, height, width, dtype=torch.uint8, device=weight.device)
    was_training = model.training
    model.eval()  # running statistics do not change
    try:
        with torch.random.fork_rng(devices=[]):
            outputs = model(images, torch.tensor([[height, width]] * batch, device=weight.device))
    finally:
        model.train(was_training)
    if not all(hasattr(outputs, field) for field in HeadOutputs._fields):
        raise InputError(f"{name}: returned {type(outputs).__name__}, expected HeadOutputs")
    anchors = model.anchors(height, width, weight.device)
    if [level.shape for level in outputs.anchors] != [level.shape for level in anchors]:
        raise InputError(f"{name}: the anchors in its outputs differ from those of its method anchors; return the same")
    for number, level in enumerate(anchors):
        if level.ndim != 4 or level.shape[-1] != 4:
            raise InputError(f"{name}: anchors of level {number} are {tuple(level.shape)}, expected (H_l, W_l, a, 4)")
    counts = [level.numel() // 4 for level in anchors]
    expected: dict[str, list[list[tuple[int, ...]]]] = {
        "class_logits": [[(batch, count, classes) for count in counts] for classes in (num_classes, num_classes + 1)],
        "box_deltas": [[(batch, count, 4) for count in counts]],
        "quality": [[(batch, count) for count in counts]],
    }
    for field, allowed in expected.items():
        levels = getattr(outputs, field)
        if field == "quality" and len(levels) == 0:
            continue
        found = [tuple(level.shape) for level in levels]
        if found not in allowed:
            raise InputError(
                f"{name}: {field} of a batch of {batch} images of {height}x{width} pixels are {found}, expected "
                f"{' or '.join(map(str, allowed))} for {num_classes} classes"
            )
    return outputs.class_logits[0].shape[-1] == num_classes + 1


def with_activation(cfg: Config, model: Detector, num_classes: int) -> Config:
    """Check a custom model, and copy its config, so that it says whether the logits have a last column for background.

    Raises:
        InputError: see `has_background_logit`.
    """
    background_logit = has_background_logit(model, num_classes, in_channels=cfg.model.in_channels)
    activation = "softmax" if background_logit else "sigmoid"
    return cfg.model_copy(update={"model": cfg.model.model_copy(update={"class_activation": activation})})


def load_weights(model: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Load weights into a user's model, which must have the same tensors.

    Raises:
        InputError: a tensor is missing, unexpected, or has another shape.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{source}: the weights do not fit {model_name(model)}: {error}") from None
