"""Fine-tuning: load the weights of a trained detector into one with different classes, anchors or pyramid levels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet.checkpoint.file import Checkpoint
from retinanet.detection.anchors import AnchorGenerator
from retinanet.errors import InputError
from retinanet.model.level_weights import match_levels
from retinanet.model.retinanet import RetinaNet

# Relative tolerance: larger than the change that "rounding: torchvision" makes to the smallest anchors, smaller than
# the step between two scales.
SHAPE_TOLERANCE = 0.05
COUNTER = "num_batches_tracked"  # buffer of batch norm that frozen batch norm does not have


def load_for_finetuning(
    model: RetinaNet, checkpoint: Checkpoint, class_names: Sequence[str], *, source: str
) -> list[str]:
    """Load all weights that have the same meaning in both detectors.

    The last convolution of the class subnet has one row for each pair (anchor of a cell, class). Rows
    are loaded for classes that both detectors have, and for background if both have a background logit; other rows keep
    their initial values. If only one detector has a background logit, the whole layer keeps its initial values. If
    anchors differ in shape or order, the last convolutions of both subnets keep their initial values. Anchor sizes may
    differ, because box deltas are relative to them. Layers of a pyramid level that only one detector has keep their
    initial values, or are dropped.

    Args:
        model: model to load into; changed in place, or left unchanged if an error is raised.
        checkpoint: checkpoint to load from; its averaged weights are used if it has any.
        class_names: class names of the model.
        source: name of the checkpoint for messages.

    Returns:
        One message for each layer that was not fully loaded; empty if all were.

    Raises:
        InputError: any other tensor is missing, unexpected, or has a different shape.
    """
    trained = checkpoint.config.model
    trained_names, class_names = list(checkpoint.class_names), list(class_names)
    class_layer = f"head.class_subnet.{len(model.head.class_subnet) - 1}"
    box_layer = f"head.box_subnet.{len(model.head.box_subnet) - 1}"
    initial = model.state_dict()
    trained_levels, levels = (_levels(anchors.strides) for anchors in (trained.anchors, model.anchors))
    state = match_levels(checkpoint.weights(), initial, trained=trained_levels, wanted=levels)
    same_anchors = _same_shapes(model.anchors, AnchorGenerator(**trained.anchors.model_dump()))
    same_background = trained.has_background_logit == model.head.background_logit
    class_rows, box_rows = ([f"{layer}.weight", f"{layer}.bias"] for layer in (class_layer, box_layer))
    if not same_anchors:
        may_differ = [*class_rows, *box_rows]
    else:
        may_differ = class_rows if trained_names != class_names or not same_background else []
    _check(state, initial, source, may_differ)

    loaded, messages = dict(state), _changed_levels(trained_levels, levels, source)
    if not same_anchors:
        messages += [f"{layer}: not loaded because the anchors are different" for layer in (class_layer, box_layer)]
        loaded |= {name: initial[name] for name in may_differ}
    elif not same_background:
        change = "added" if model.head.background_logit else "removed"
        messages += [f"{class_layer}: not loaded because the background logit was {change}"]
        loaded |= {name: initial[name] for name in may_differ}
    elif trained_names != class_names:
        for name in class_rows:
            loaded[name] = _rows_by_name(
                state[name], initial[name], trained_names, class_names, background=model.head.background_logit
            )
        shared = [name for name in class_names if name in trained_names]
        new = [name for name in class_names if name not in trained_names]
        dropped = [name for name in trained_names if name not in class_names]
        if new or dropped:
            messages += [
                f"{class_layer}: loaded {_count(shared)} by name; new: {_count(new)}; dropped from {source}: "
                f"{_count(dropped)}"
            ]
    counters = {name: value for name, value in initial.items() if name.endswith(COUNTER)}
    model.load_state_dict(counters | {name: value for name, value in loaded.items() if name in initial})
    return messages


def _rows_by_name(
    trained: Tensor, initial: Tensor, trained_names: list[str], class_names: list[str], *, background: bool
) -> Tensor:
    """Copy the rows of shared classes, and of background, into a copy of the initial weight or bias.

    Rows are ordered by (anchor in the cell, class), with the class varying fastest; background is the last class.
    """
    shared = [name for name in class_names if name in trained_names]
    rows = [class_names.index(name) for name in shared] + [len(class_names)] * background
    trained_rows = [trained_names.index(name) for name in shared] + [len(trained_names)] * background
    row_indices, trained_indices = (
        torch.tensor(indices, dtype=torch.int64, device=initial.device) for indices in (rows, trained_rows)
    )
    new = initial.unflatten(0, (-1, len(class_names) + background)).clone()
    old = trained.to(new).unflatten(0, (-1, len(trained_names) + background))
    return new.index_copy(1, row_indices, old.index_select(1, trained_indices)).flatten(0, 1)


def _levels(strides: Sequence[int]) -> list[int]:
    """Numbers of the pyramid levels: level l has a stride of 2^l."""
    return [stride.bit_length() - 1 for stride in strides]


def _changed_levels(trained: list[int], wanted: list[int], source: str) -> list[str]:
    """Messages about levels that only one of the detectors has."""
    new = [f"P{level}" for level in wanted if level not in trained]
    dropped = [f"P{level}" for level in trained if level not in wanted]
    messages = (
        [f"fpn: {', '.join(new)} keep initial values, because {source} does not have these levels"] if new else []
    )
    return messages + ([f"fpn: {', '.join(dropped)} of {source} dropped"] if dropped else [])


def _same_shapes(one: AnchorGenerator, other: AnchorGenerator) -> bool:
    """Whether the anchors in a cell have the same shapes in the same order, up to a common scale."""
    if one.num_per_cell != other.num_per_cell:
        return False
    relative = []
    for anchors in (one, other):
        x1, y1, x2, y2 = anchors(1, 1)[-1][0, 0].unbind(-1)  # (a,) each, on the coarsest level: least rounding
        sides = torch.stack([x2 - x1, y2 - y1])
        relative.append(sides / (sides[0, 0] * sides[1, 0]).sqrt())
    return torch.allclose(relative[0], relative[1], rtol=SHAPE_TOLERANCE, atol=0)


def _check(state: dict[str, Tensor], expected: dict[str, Tensor], source: str, may_differ: list[str]) -> None:
    missing = [name for name in expected if name not in state and not name.endswith(COUNTER)]
    unknown = [name for name in state if name not in expected and not name.endswith(COUNTER)]
    misshapen = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in state and name not in may_differ and state[name].shape != expected[name].shape
    ]
    if missing or unknown or misshapen:
        raise InputError(
            f"{source}: the network differs from this model: {_listed('missing', missing)}, "
            f"{_listed('unknown', unknown)}, {_listed('with a different shape', misshapen)}; only classes, anchors "
            "and pyramid levels may differ; match model.* to the checkpoint's config, or remove train.init_from"
        )


def _listed(kind: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {kind}" + (f" ({shown})" if names else "")


def _count(names: list[str]) -> str:
    noun = "class" if len(names) == 1 else "classes"
    return f"{len(names)} {noun}" + (f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "")
