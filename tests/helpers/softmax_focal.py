"""Reference for the softmax focal loss."""

import torch
from torch import Tensor


def softmax_focal_by_definition(logits: Tensor, targets: Tensor, *, alpha=None, gamma: float = 2.0) -> Tensor:
    """Compute -alpha_c (1 - p_c)^gamma log p_c for each target in float64, for moderate logits (N, C, ...)."""
    log_p = logits.double().log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
    weights = 1 if alpha is None else torch.as_tensor(alpha, dtype=torch.float64)[targets]
    return -weights * (1 - log_p.exp()) ** gamma * log_p
