"""Working precision and chunk size of the class-loss kernels."""

import torch
from torch import Tensor

# Logits processed together: a CPU stays inside its cache, and intermediate values stay small beside the logits.
LOGITS_AT_ONCE = {"cpu": 2**18}
LOGITS_AT_ONCE_ELSEWHERE = 2**24


def rows_at_once(logits: Tensor) -> int:
    """Number of rows of logits (R, K) to process together, at least 1."""
    most = LOGITS_AT_ONCE.get(logits.device.type, LOGITS_AT_ONCE_ELSEWHERE)
    return max(1, most // logits.shape[1])


def working_type(logits: Tensor) -> torch.dtype:
    """The type that losses are computed in: float32, float64 for float64 logits."""
    return torch.promote_types(logits.dtype, torch.float32)
