"""Recognise state dicts that belong to no other framework's detector: our own, and those of a backbone alone."""

from collections.abc import Iterable

OURS = ("fpn.laterals.0.weight", "head.box_subnet.0.weight")
# The first convolution of a ResNet: torchvision's name, with and without our `backbone.`, and Detectron2's.
STEMS = ("conv1.weight", "backbone.conv1.weight", "stem.conv1.weight", "backbone.bottom_up.stem.conv1.weight")
TIMM_STEMS = ("stem.0.weight", "stem.conv.weight", "conv_stem.weight", "patch_embed.proj.weight")


def is_ours(names: Iterable[str]) -> bool:
    """Whether a state dict has the names of our `RetinaNet`."""
    return set(OURS) <= set(names)


def is_backbone(names: Iterable[str]) -> bool:
    """Whether a state dict has the names of a backbone, given that it is not a detector."""
    return bool(set(names) & {*STEMS, *TIMM_STEMS})


def listed(names: Iterable[str]) -> str:
    """The first names, for messages."""
    names = list(names)
    return ", ".join(names[:3]) + (f", ... ({len(names)} in all)" if len(names) > 3 else "")
