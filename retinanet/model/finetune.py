"""Fine-tuning: load the weights of a trained detector into one with different classes, anchors or pyramid levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.config import ModelConfig
from retinanet.detection.anchors import AnchorGenerator
from retinanet.errors import InputError
from retinanet.model.class_match import ClassMatch, copy_rows, match_by_name, match_by_position
from retinanet.model.fitting import check_fits
from retinanet.model.level_weights import match_levels
from retinanet.model.pretrained import COUNTER
from retinanet.model.retinanet import RetinaNet
from retinanet.model.stem import adapted_stem

# Relative tolerance: larger than the change that "rounding: torchvision" makes to the smallest anchors, smaller than
# the step between two scales.
SHAPE_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class TrainedWeights:
    """Weights of a trained detector, and what is known about it."""

    source: str  # name of the weights for messages
    state: dict[str, Tensor]
    model: ModelConfig | None  # None: not known, and assumed to fit
    class_names: tuple[str, ...] | None  # None: not known
    has_background_slot: bool = False  # whether label 0 may be unused, for background, as is usual in torchvision


class LoadedWeights(NamedTuple):
    """Summary of what `load_for_finetuning` has loaded, as text."""

    taken: str
    reinitialised: str
    left_over: str

    def __str__(self) -> str:
        return f"  taken: {self.taken}\n  re-initialised: {self.reinitialised}\n  left over: {self.left_over}"


def load_for_finetuning(
    model: RetinaNet, cfg: ModelConfig, trained: TrainedWeights, class_names: Sequence[str]
) -> LoadedWeights:
    """Load all weights that have the same meaning in both detectors.

    The last convolution of the class subnet has one row for each pair (anchor of a cell, class). Rows are loaded for
    classes that both detectors have, and for background if both have a background logit; other rows keep their initial
    values. Classes are matched by name or, if the trained detector does not name its classes, by position if there are
    equally many. If only one detector has a background logit, the whole layer keeps its initial values. If anchors
    differ in shape or order, the last convolutions of both subnets keep their initial values. Anchor sizes may differ,
    because box deltas are relative to them. Layers of a pyramid level that only one detector has keep their initial
    values, or are left over. The first convolution of a detector for RGB images is adapted to the number of channels of
    the model; see `adapt_stem`.

    Args:
        model: model to load into; changed in place, or left unchanged if an error is raised.
        cfg: config of the model.
        trained: weights to load.
        class_names: class names of the model.

    Raises:
        InputError: the config must be changed to fit the weights, or a tensor is missing, unexpected, or has a
            different shape.
    """
    source, background = trained.source, model.head.background_logit
    if trained.model is not None:
        check_fits(cfg, trained.model, source)
    old = trained.model or cfg
    # Scalars are counters, such as the number of averaged models.
    state = {name: value for name, value in trained.state.items() if value.ndim or name.endswith(COUNTER)}
    left = [name for name in trained.state if name not in state]
    initial = model.state_dict()
    old_levels, levels = (_levels(anchors.strides) for anchors in (old.anchors, model.anchors))
    state = match_levels(state, initial, trained=old_levels, wanted=levels)
    of_new_levels = [name for name, value in state.items() if value is initial.get(name) and not name.endswith(COUNTER)]
    adapted = adapted_stem(state, initial) if old.in_channels == 3 else {}
    state |= adapted
    class_layer = f"head.class_subnet.{len(model.head.class_subnet) - 1}"
    box_layer = f"head.box_subnet.{len(model.head.box_subnet) - 1}"
    class_rows, box_rows = ([f"{layer}.weight", f"{layer}.bias"] for layer in (class_layer, box_layer))
    old_anchors = AnchorGenerator(**old.anchors.model_dump())
    same_anchors = _same_shapes(model.anchors, old_anchors)
    _check(state, initial, source, class_rows if same_anchors else [*class_rows, *box_rows])
    num_trained = len(state[class_rows[1]]) // old_anchors.num_per_cell - old.has_background_logit
    if trained.class_names is not None:
        match: ClassMatch | None = match_by_name(class_names, trained.class_names)
    else:
        match = match_by_position(class_names, num_trained, has_background_slot=trained.has_background_slot)

    how = "".join(f", and {name} adapted from {old.in_channels} to {model.in_channels} channels" for name in adapted)
    added = ", ".join(f"P{level}" for level in levels if level not in old_levels)
    new = [f"{added}, which the weights do not have"] if added else []
    left += [f"P{level}" for level in old_levels if level not in levels]
    kept: list[str] = []  # names of tensors that keep their initial values
    copied: list[str] = []  # names of tensors of which only some rows are loaded
    if not same_anchors:
        kept = [*class_rows, *box_rows]
        new.append(f"{class_layer} and {box_layer}, because the anchors are different")
    elif old.has_background_logit != background:
        kept = class_rows
        new.append(f"{class_layer}, because the background logit was {'added' if background else 'removed'}")
    elif match is None:
        kept = class_rows
        new.append(
            f"{class_layer}, because the weights have {num_trained} classes without names, not {len(class_names)}"
        )
    elif match.is_complete:
        how += "" if trained.class_names is not None else f", the classes {match.how}"
    else:
        copied = class_rows
        how += f", and {_count(match.shared)} {match.how} in {class_layer}"
        new += [f"{_count(match.new)} in {class_layer}"] if match.new else []
        left += [_count(match.dropped)] if match.dropped else []

    loaded = {name: initial[name] if name in kept else value for name, value in state.items() if name in initial}
    for name in copied:
        assert match is not None
        loaded[name] = copy_rows(
            state[name], initial[name], match, num_trained, len(class_names), background=background
        )
    counters = {name: value for name, value in initial.items() if name.endswith(COUNTER)}
    model.load_state_dict(counters | loaded)
    total = len(initial) - len(counters)
    num_taken = total - len({*kept, *copied, *of_new_levels})
    taken = f"all {total} tensors" if num_taken == total else f"{num_taken} of {total} tensors"
    return LoadedWeights(taken + how, "; ".join(new) or "nothing", "; ".join(left) or "nothing")


def _levels(strides: Sequence[int]) -> list[int]:
    """Numbers of the pyramid levels: level l has a stride of 2^l."""
    return [stride.bit_length() - 1 for stride in strides]


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
            "and pyramid levels may differ; match model.* to the network of these weights, or remove train.init_from"
        )


def _listed(kind: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {kind}" + (f" ({shown})" if names else "")


def _count(names: Sequence[str]) -> str:
    noun = "class" if len(names) == 1 else "classes"
    return f"{len(names)} {noun}" + (f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "")
