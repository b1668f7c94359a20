"""Benchmark time and memory of the public focal loss, forward and backward, against torchvision, kornia and MONAI.

kornia and MONAI are measured if they are installed. Labels as large as the logits are prepared in advance, except for
libraries that build them from class indices themselves. All losses are means of the same values, except those in
`OTHER_VALUES`.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from retinanet.benchmarks.loss import POSITIVE_SHARE
from retinanet.benchmarks.measure import Variant, compare, ratio
from retinanet.benchmarks.report import comparison_table, format_ms, table, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult
from retinanet.losses.focal import focal_loss
from retinanet.losses.sigmoid import SigmoidFocalLoss

TARGETS, CLASSES = 100_000, 80
ALPHA, GAMMA = 0.25, 2.0
INDICES, LABELS, DETECTOR = "ours, class indices", "ours, labels", "ours, in the detector"
SOFT, SMOOTHED, CROSS_ENTROPY = "ours, soft labels", "ours, smoothed indices", "torch's cross_entropy"
OTHER_VALUES = (SOFT, SMOOTHED, CROSS_ENTROPY)

Calls = dict[str, Callable[[], Tensor]]


def run(settings: Settings) -> SuiteResult:
    classes = settings.classes or CLASSES
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(TARGETS, classes, generator=random).mul_(2).sub_(4).to(settings.device).requires_grad_()
    indices = torch.randint(classes, (TARGETS,), generator=random)
    is_positive = torch.rand(TARGETS, generator=random) < POSITIVE_SHARE
    anchors = torch.where(is_positive, indices, classes).to(settings.device)
    tables, details, ratios = [], {}, {}
    for mode, calls in {
        "sigmoid": sigmoid_losses(logits, anchors),
        "softmax": softmax_losses(logits, indices.to(settings.device)),
    }.items():
        check_equal(calls)

        def drop_gradient() -> None:
            logits.grad = None

        cpu_seconds: dict[str, list[float]] = {name: [] for name in calls}
        variants = [
            Variant(name, partial(backward, call, cpu_seconds[name]), clean_up=drop_gradient)
            for name, call in calls.items()
        ]
        measured = compare(variants, rounds=settings.rounds, device=settings.device, what=f"focal loss, {mode}")
        title = (
            f"focal loss, {mode}: {TARGETS} targets x {classes} classes, float32 ({logits.nbytes >> 20} MiB of logits)"
        )
        timed = {name: sorted(seconds[-settings.rounds :]) for name, seconds in cpu_seconds.items()}
        rows = [[name, format_ms(median(seconds)), format_ms(seconds[0])] for name, seconds in timed.items()]
        tables.append(comparison_table(title, measured, ours=INDICES))
        tables.append(table(f"focal loss, {mode}: CPU time of all threads", ["", "median ms", "min ms"], rows))
        details[mode] = {"variants": to_plain_values(measured, ours=INDICES), "cpu_s": timed}
        for name, measurement in measured.items():
            if name != INDICES:
                ratios[f"{mode}: {name}"] = ratio(measurement, measured[INDICES]).of_rounds
    return SuiteResult(ratios, tables, details)


def backward(call: Callable[[], Tensor], cpu_seconds: list[float]) -> None:
    """Compute a loss and its gradient, and append the CPU time of all threads, which other processes hardly affect."""
    start = time.process_time()
    call().backward()
    cpu_seconds.append(time.process_time() - start)


def sigmoid_losses(logits: Tensor, anchors: Tensor) -> Calls:
    """Losses of anchors (A,), with one class or none (K): A K binary predictions."""
    labels = F.one_hot(anchors, logits.shape[1] + 1)[:, :-1].float()
    valid = torch.ones_like(anchors, dtype=torch.bool)
    detector = SigmoidFocalLoss(alpha=ALPHA, gamma=GAMMA)
    ours = partial(focal_loss, logits, mode="sigmoid", alpha=ALPHA, gamma=GAMMA)
    calls: Calls = {
        INDICES: partial(ours, anchors),
        DETECTOR: lambda: detector(logits, anchors, valid) / logits.numel(),
        LABELS: partial(ours, labels),
        SOFT: partial(ours, labels * 0.8 + 0.1),
        SMOOTHED: partial(ours, anchors, label_smoothing=0.1),
        "torchvision": lambda: sigmoid_focal_loss(logits, labels, ALPHA, GAMMA, reduction="mean"),
    }
    if find_spec("kornia"):
        from kornia.losses import binary_focal_loss_with_logits

        calls["kornia"] = lambda: binary_focal_loss_with_logits(logits, labels, ALPHA, GAMMA, reduction="mean")
    if find_spec("monai"):
        from monai.losses import FocalLoss

        monai = FocalLoss(alpha=ALPHA, gamma=GAMMA)
        calls["MONAI"] = lambda: monai(logits, labels)
    return calls


def softmax_losses(logits: Tensor, indices: Tensor) -> Calls:
    """Losses of a softmax over the classes; cross entropy, for comparison, does less work."""
    classes = logits.shape[1]
    calls: Calls = {
        INDICES: lambda: focal_loss(logits, indices, gamma=GAMMA),
        SOFT: partial(focal_loss, logits, F.one_hot(indices, classes) * 0.8 + 0.2 / classes, gamma=GAMMA),
        SMOOTHED: lambda: focal_loss(logits, indices, gamma=GAMMA, label_smoothing=0.1),
        CROSS_ENTROPY: lambda: F.cross_entropy(logits, indices),
    }
    if find_spec("kornia"):
        from kornia.losses import focal_loss as kornia_loss

        # kornia and MONAI divide the mean by the number of classes, too.
        calls["kornia"] = lambda: kornia_loss(logits, indices, None, GAMMA, reduction="mean") * classes
    if find_spec("monai"):
        from monai.losses import FocalLoss

        monai = FocalLoss(gamma=GAMMA, use_softmax=True, to_onehot_y=True)
        calls["MONAI"] = lambda: monai(logits, indices[:, None]) * classes
    return calls


def check_equal(calls: Calls) -> None:
    """Check that the variants compute the same mean."""
    expected = calls[INDICES]().item()
    for name, call in calls.items():
        value = call().item()
        assert name in OTHER_VALUES or abs(value - expected) < 1e-4 * expected, f"{name}: {value}, expected {expected}"
