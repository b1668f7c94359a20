"""The class loss, forward and backward, and how exact it is.

torchvision's takes a target of the form of the logits. It is made beforehand here, and every anchor counts: making it
and leaving out ignored anchors is part of a training step, and of that suite.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from retinanet.benchmarks.measure import Contestant, Measurement, compete, ratio
from retinanet.benchmarks.report import figures, growth_table, precision_name, race, table
from retinanet.benchmarks.settings import Outcome, Settings
from retinanet.losses.focal import SigmoidFocal

ANCHORS, CLASSES = 115_200, 90
GROWTH_ANCHORS = 20_000
GROWTH_CLASSES = (20, 80, 365, 1203)
POSITIVE = 0.01  # share of the anchors
OURS, FLOAT, DIRECT = "ours", "torchvision, logits to float32", "torchvision on the logits"
ROWS_AT_ONCE = 8192  # of the reference


class Case(NamedTuple):
    logits: Tensor  # (A, K), a leaf
    labels: Tensor  # (A,) int64, K for background
    counted: Tensor  # (A,) bool
    one_hot: Tensor  # (A, K) float32


class Errors(NamedTuple):
    """Against float64 arithmetic on the same logits."""

    value: float  # relative
    gradient: float  # relative, of the whole as a vector
    gradient_most: float  # of the worst element, by the largest element


def run(settings: Settings) -> Outcome:
    classes = settings.classes or CLASSES
    tables, details, ratios = [], {}, {}
    for dtype in (torch.bfloat16, torch.float32):
        case = make_case(ANCHORS, classes, dtype, settings.device)
        calls = contestants_of(case)
        errors = exactness(case, calls)
        measured = race_of(case, calls, settings, f"loss {precision_name(dtype)}")
        name = precision_name(dtype)
        tables.append(race(f"loss: {ANCHORS} anchors x {classes} classes, {name}", measured, ours=OURS))
        logits_bytes = case.logits.nbytes
        rows = [
            [key, f"{error.value:.1e}", f"{error.gradient:.1e}", f"{error.gradient_most:.1e}",
             f"{measured[key].peak_bytes / logits_bytes:.2f}"]
            for key, error in errors.items()
        ]  # fmt: skip
        columns = ["", "value error", "gradient error", "its largest", "peak / logits"]
        tables.append(table(f"{name}, against float64; peak memory holds the gradient, 1 of it", columns, rows))
        details[name] = {
            "anchors": ANCHORS,
            "classes": classes,
            "logits_bytes": logits_bytes,
            "contestants": figures(measured, ours=OURS),
            "errors": {key: error._asdict() for key, error in errors.items()},
            "peak_over_logits": {key: measured[key].peak_bytes / logits_bytes for key in errors},
        }
        # The suite's is that of a network's logits under autocast, against torchvision's loss in the precision of ours;
        # the others are beside it, since on 16-bit logits torchvision's is faster, and far from exact.
        if dtype == torch.bfloat16:
            ratios["vs_torchvision"] = ratio(measured[FLOAT], measured[OURS]).of_rounds
            ratios["vs_torchvision_inexact"] = ratio(measured[DIRECT], measured[OURS]).of_rounds
        else:
            ratios["vs_torchvision_float32"] = ratio(measured[FLOAT], measured[OURS]).of_rounds
    if settings.growth:
        by_classes = {}
        for count in GROWTH_CLASSES:
            case = make_case(GROWTH_ANCHORS, count, torch.bfloat16, settings.device)
            by_classes[str(count)] = race_of(case, contestants_of(case), settings, f"loss {count} classes")
        tables.append(growth_table(f"loss by classes, {GROWTH_ANCHORS} anchors, bfloat16", "classes", by_classes))
        details["growth"] = {"classes": {key: figures(value, ours=OURS) for key, value in by_classes.items()}}
    return Outcome(ratios, tables, details)


def make_case(anchors: int, classes: int, dtype: torch.dtype, device: torch.device) -> Case:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(anchors, classes, generator=random).mul_(2).sub_(4).to(device, dtype).requires_grad_()
    labels = torch.randint(classes, (anchors,), generator=random)
    labels[torch.rand(anchors, generator=random) >= POSITIVE] = classes
    one_hot = F.one_hot(labels, classes + 1)[:, :-1].float().to(device)
    return Case(logits, labels.to(device), torch.ones(anchors, dtype=torch.bool, device=device), one_hot)


def contestants_of(case: Case) -> dict[str, Callable[[], Tensor]]:
    """Losses to call backward on."""
    ours = SigmoidFocal(alpha=0.25, gamma=2.0)
    calls = {
        OURS: lambda: ours(case.logits, case.labels, case.counted),
        FLOAT: lambda: sigmoid_focal_loss(case.logits.float(), case.one_hot, reduction="sum"),
    }
    if case.logits.dtype != torch.float32:
        low = case.one_hot.to(case.logits.dtype)
        calls[DIRECT] = lambda: sigmoid_focal_loss(case.logits, low, reduction="sum")
    return calls


def race_of(
    case: Case, calls: dict[str, Callable[[], Tensor]], settings: Settings, what: str
) -> dict[str, Measurement]:
    def forget() -> None:
        case.logits.grad = None

    contestants = [
        Contestant(name, lambda loss=loss: loss().backward(), clean_up=forget) for name, loss in calls.items()
    ]
    return compete(contestants, rounds=settings.rounds, device=settings.device, what=what)


def exactness(case: Case, calls: dict[str, Callable[[], Tensor]]) -> dict[str, Errors]:
    value, gradient = reference(case)
    errors = {}
    for name, loss in calls.items():
        found = loss()
        (slope,) = torch.autograd.grad(found, case.logits)
        difference = slope.double() - gradient
        errors[name] = Errors(
            abs(found.item() - value) / value,
            float(difference.norm() / gradient.norm()),
            float(difference.abs().max() / gradient.abs().max()),
        )
    return errors


def reference(case: Case) -> tuple[float, Tensor]:
    """torchvision's formula in float64 on a CPU, in parts that fit into memory: value and gradient (A, K)."""
    total, slopes = 0.0, []
    for rows in case.logits.detach().double().cpu().split(ROWS_AT_ONCE):
        rows.requires_grad_()
        start = sum(len(slope) for slope in slopes)
        one_hot = case.one_hot[start : start + len(rows)].double().cpu()
        loss = sigmoid_focal_loss(rows, one_hot, reduction="sum")
        slopes.append(torch.autograd.grad(loss, rows)[0])
        total += loss.item()
    return total, torch.cat(slopes).to(case.logits.device)
