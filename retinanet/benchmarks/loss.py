"""Benchmark the classification loss, forward and backward: speed, memory and accuracy.

torchvision's loss takes a one-hot target with the shape of the logits. Here the target is prepared in advance and no
anchors are ignored. The `train_step` suite measures both losses as part of a training step.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from retinanet.benchmarks.measure import Measurement, Variant, compare, ratio
from retinanet.benchmarks.report import comparison_table, growth_table, precision_name, table, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult
from retinanet.losses.sigmoid import SigmoidFocalLoss

ANCHORS, CLASSES = 115_200, 90
GROWTH_ANCHORS = 20_000
GROWTH_CLASSES = (20, 80, 365, 1203)
POSITIVE_SHARE = 0.01
OURS, FLOAT, DIRECT = "ours", "torchvision, logits to float32", "torchvision on the logits"
REFERENCE_CHUNK = 8192  # anchors


class Case(NamedTuple):
    logits: Tensor  # (A, K), leaf tensor
    labels: Tensor  # (A,) int64, K for background
    valid: Tensor  # (A,) bool, all True
    one_hot: Tensor  # (A, K) float32


class Errors(NamedTuple):
    """Relative errors against float64 arithmetic on the same logits."""

    value: float
    gradient: float  # norm of the error / norm of the gradient
    gradient_most: float  # largest element of the error / largest element of the gradient


def run(settings: Settings) -> SuiteResult:
    classes = settings.classes or CLASSES
    tables, details, ratios = [], {}, {}
    for dtype in (torch.bfloat16, torch.float32):
        case = make_case(ANCHORS, classes, dtype, settings.device)
        calls = make_losses(case)
        errors = measure_errors(case, calls)
        measured = compare_losses(case, calls, settings, f"loss {precision_name(dtype)}")
        name = precision_name(dtype)
        tables.append(comparison_table(f"loss: {ANCHORS} anchors x {classes} classes, {name}", measured, ours=OURS))
        logits_bytes = case.logits.nbytes
        rows = [
            [key, f"{error.value:.1e}", f"{error.gradient:.1e}", f"{error.gradient_most:.1e}",
             f"{measured[key].peak_bytes / logits_bytes:.2f}"]
            for key, error in errors.items()
        ]  # fmt: skip
        columns = ["", "value error", "gradient error", "largest", "peak / logits"]
        title = f"{name}, errors relative to float64; the gradient alone accounts for 1 of peak / logits"
        tables.append(table(title, columns, rows))
        details[name] = {
            "anchors": ANCHORS,
            "classes": classes,
            "logits_bytes": logits_bytes,
            "variants": to_plain_values(measured, ours=OURS),
            "errors": {key: error._asdict() for key, error in errors.items()},
            "peak_over_logits": {key: measured[key].peak_bytes / logits_bytes for key in errors},
        }
        # The main ratio is for bfloat16 logits, with torchvision's loss computed in float32, like ours. Directly on
        # bfloat16 logits, torchvision's loss is faster but inaccurate, so that ratio has its own name.
        if dtype == torch.bfloat16:
            ratios["vs_torchvision"] = ratio(measured[FLOAT], measured[OURS]).of_rounds
            ratios["vs_torchvision_inexact"] = ratio(measured[DIRECT], measured[OURS]).of_rounds
        else:
            ratios["vs_torchvision_float32"] = ratio(measured[FLOAT], measured[OURS]).of_rounds
    if settings.growth:
        by_classes = {}
        for count in GROWTH_CLASSES:
            case = make_case(GROWTH_ANCHORS, count, torch.bfloat16, settings.device)
            by_classes[str(count)] = compare_losses(case, make_losses(case), settings, f"loss {count} classes")
        tables.append(growth_table(f"loss by classes, {GROWTH_ANCHORS} anchors, bfloat16", "classes", by_classes))
        details["growth"] = {"classes": {key: to_plain_values(value, ours=OURS) for key, value in by_classes.items()}}
    return SuiteResult(ratios, tables, details)


def make_case(anchors: int, classes: int, dtype: torch.dtype, device: torch.device) -> Case:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(anchors, classes, generator=random).mul_(2).sub_(4).to(device, dtype).requires_grad_()
    labels = torch.randint(classes, (anchors,), generator=random)
    labels[torch.rand(anchors, generator=random) >= POSITIVE_SHARE] = classes
    one_hot = F.one_hot(labels, classes + 1)[:, :-1].float().to(device)
    return Case(logits, labels.to(device), torch.ones(anchors, dtype=torch.bool, device=device), one_hot)


def make_losses(case: Case) -> dict[str, Callable[[], Tensor]]:
    """Return functions that compute the loss, by variant name."""
    ours = SigmoidFocalLoss(alpha=0.25, gamma=2.0)
    calls = {
        OURS: lambda: ours(case.logits, case.labels, case.valid),
        FLOAT: lambda: sigmoid_focal_loss(case.logits.float(), case.one_hot, reduction="sum"),
    }
    if case.logits.dtype != torch.float32:
        low = case.one_hot.to(case.logits.dtype)
        calls[DIRECT] = lambda: sigmoid_focal_loss(case.logits, low, reduction="sum")
    return calls


def compare_losses(
    case: Case, calls: dict[str, Callable[[], Tensor]], settings: Settings, what: str
) -> dict[str, Measurement]:
    def drop_gradient() -> None:
        case.logits.grad = None

    variants = [
        Variant(name, lambda loss=loss: loss().backward(), clean_up=drop_gradient) for name, loss in calls.items()
    ]
    return compare(variants, rounds=settings.rounds, device=settings.device, what=what)


def measure_errors(case: Case, calls: dict[str, Callable[[], Tensor]]) -> dict[str, Errors]:
    value, gradient = reference(case)
    errors = {}
    for name, loss in calls.items():
        result = loss()
        (derivative,) = torch.autograd.grad(result, case.logits)
        difference = derivative.double() - gradient
        errors[name] = Errors(
            abs(result.item() - value) / value,
            float(difference.norm() / gradient.norm()),
            float(difference.abs().max() / gradient.abs().max()),
        )
    return errors


def reference(case: Case) -> tuple[float, Tensor]:
    """Compute torchvision's formula and its gradient (A, K) in float64 on the CPU, in chunks to save memory."""
    total, derivatives = 0.0, []
    for rows in case.logits.detach().double().cpu().split(REFERENCE_CHUNK):
        rows.requires_grad_()
        start = sum(len(derivative) for derivative in derivatives)
        one_hot = case.one_hot[start : start + len(rows)].double().cpu()
        loss = sigmoid_focal_loss(rows, one_hot, reduction="sum")
        derivatives.append(torch.autograd.grad(loss, rows)[0])
        total += loss.item()
    return total, torch.cat(derivatives).to(case.logits.device)
