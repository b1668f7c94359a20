"""References for the public focal loss, in float64 and by definition."""

import torch
from torch import Tensor


def softmax_focal_by_definition(logits: Tensor, targets: Tensor, *, alpha=None, gamma: float = 2.0) -> Tensor:
    """Compute -alpha_c (1 - p_c)^gamma log p_c for each target in float64, for moderate logits (N, C, ...)."""
    log_p = logits.double().log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
    weights = 1 if alpha is None else torch.as_tensor(alpha, dtype=torch.float64)[targets]
    return -weights * (1 - log_p.exp()) ** gamma * log_p


def soft_focal_by_definition(logits: Tensor, labels: Tensor, *, mode: str, gamma: float = 2.0) -> Tensor:
    """Compute |y - p|^gamma times each term of the cross entropy in float64; one loss per target or per logit."""
    logits, labels = logits.double(), labels.double()
    if mode == "softmax":
        p = logits.softmax(1)
        return (-labels * (labels - p).abs() ** gamma * p.log()).sum(1)
    p = logits.sigmoid()
    return (labels - p).abs() ** gamma * -(labels * p.log() + (1 - labels) * (1 - p).log())


def multi_hot(targets: Tensor, num_classes: int) -> Tensor:
    """Labels (N, C, d1, ...) of class indices (N, d1, ...), where C or a negative number means no class."""
    classes = torch.arange(num_classes).view(-1, *[1] * (targets.ndim - 1))
    return (targets.unsqueeze(1) == classes).double()
