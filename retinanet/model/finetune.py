"""Weights of a trained detector for one of other classes or anchors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet.checkpoint.file import Checkpoint
from retinanet.detection.anchors import AnchorGenerator
from retinanet.errors import InputError
from retinanet.model.retinanet import RetinaNet

# Relative. More than "rounding: torchvision" changes the sides of the smallest anchors, less than between two scales.
SHAPE_TOLERANCE = 0.05
COUNTER = "num_batches_tracked"  # of a batch norm: a frozen one has none, and has no use for it


def load_for_finetuning(
    model: RetinaNet, checkpoint: Checkpoint, class_names: Sequence[str], *, source: str
) -> list[str]:
    """Load all weights that still mean the same.

    The last convolution of the class subnet has rows for each anchor of a cell and class: those of classes that both
    detectors name are taken, and of background where both have a softmax; the others stay as the model was made, and
    all where the class activation is another. Anchors of other shapes or in another order leave the last convolution of
    both subnets as made; sizes may differ, since offsets are relative to them.

    Args:
        model: changed in place, or not at all.
        checkpoint: its averaged weights are loaded if it has them.
        class_names: of the model.
        source: where the weights are from, for messages.

    Returns: one line on each part that is not as it was trained; empty where everything is.

    Raises:
        InputError: another tensor is missing, unknown, or of another shape.
    """
    state, trained = checkpoint.weights(), checkpoint.config.model
    trained_names, class_names = list(checkpoint.class_names), list(class_names)
    device = next(model.head.parameters()).device
    class_layer = f"head.class_subnet.{len(model.head.class_subnet) - 1}"
    box_layer = f"head.box_subnet.{len(model.head.box_subnet) - 1}"
    wanted = model.state_dict()
    same_anchors = _same_shapes(model.anchors, AnchorGenerator(**trained.anchors.model_dump()))
    same_activation = trained.has_background_logit == model.head.background_logit
    class_rows, box_rows = ([f"{layer}.weight", f"{layer}.bias"] for layer in (class_layer, box_layer))
    if not same_anchors:
        may_differ = [*class_rows, *box_rows]
    else:
        may_differ = class_rows if trained_names != class_names or not same_activation else []
    _check(state, wanted, source, may_differ)

    taken, remade = dict(state), []
    if not same_anchors:
        remade = [f"{layer}: the anchors are others, all rows start anew" for layer in (class_layer, box_layer)]
        taken |= {name: wanted[name] for name in may_differ}
    elif not same_activation:
        change = "added" if model.head.background_logit else "removed"
        remade = [f"{class_layer}: the background logit was {change}, all rows start anew"]
        taken |= {name: wanted[name] for name in may_differ}
    elif trained_names != class_names:
        shared = [name for name in class_names if name in trained_names]
        # Background, where there is one, is the last.
        background = int(model.head.background_logit)
        rows = [class_names.index(name) for name in shared] + [len(class_names)] * background
        trained_rows = [trained_names.index(name) for name in shared] + [len(trained_names)] * background
        row_indices, trained_indices = (torch.tensor(x, dtype=torch.int64, device=device) for x in (rows, trained_rows))
        for name in class_rows:
            # Rows of a convolution are (anchor of a cell, class), the class running fastest.
            fresh = wanted[name].unflatten(0, (-1, len(class_names) + background)).clone()
            old = state[name].to(fresh).unflatten(0, (-1, len(trained_names) + background))
            taken[name] = fresh.index_copy(1, row_indices, old.index_select(1, trained_indices)).flatten(0, 1)
        new = [name for name in class_names if name not in trained_names]
        gone = [name for name in trained_names if name not in class_names]
        if new or gone:
            remade = [
                f"{class_layer}: {_count(shared)} are taken by name, {_count(new)} start anew, {_count(gone)} of "
                f"{source} have no place here"
            ]
    counters = {name: value for name, value in wanted.items() if name.endswith(COUNTER)}
    model.load_state_dict(counters | {name: value for name, value in taken.items() if name in wanted})
    return remade


def _same_shapes(one: AnchorGenerator, other: AnchorGenerator) -> bool:
    """Whether the anchors of a cell have the same proportions to each other, in the same order."""
    if one.num_per_cell != other.num_per_cell:
        return False
    relative = []
    for anchors in (one, other):
        x1, y1, x2, y2 = anchors(1, 1)[0][0, 0].unbind(-1)  # (a,) each, of the finest level
        sides = torch.stack([x2 - x1, y2 - y1])
        relative.append(sides / (sides[0, 0] * sides[1, 0]).sqrt())
    return torch.allclose(relative[0], relative[1], rtol=SHAPE_TOLERANCE, atol=0)


def _check(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str, may_differ: list[str]) -> None:
    missing = [name for name in wanted if name not in state and not name.endswith(COUNTER)]
    unknown = [name for name in state if name not in wanted and not name.endswith(COUNTER)]
    misshapen = [
        f"{name} {tuple(state[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and name not in may_differ and state[name].shape != wanted[name].shape
    ]
    if missing or unknown or misshapen:
        raise InputError(
            f"{source}: holds another network than this model: {_listed('missing', missing)}, "
            f"{_listed('unknown', unknown)}, {_listed('of another shape', misshapen)}; only classes and anchors may "
            "differ: set model.* to what the checkpoint was trained with, or train without it"
        )


def _listed(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")


def _count(names: list[str]) -> str:
    noun = "class" if len(names) == 1 else "classes"
    return f"{len(names)} {noun}" + (f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "")
