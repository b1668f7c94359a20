"""Working precision and chunk size of the class-loss kernels."""

import torch
from torch import Tensor

# Logits processed at a time: few enough to fit a CPU's cache, and to keep intermediate tensors small compared to the
# logits.
LOGITS_AT_ONCE = {"cpu": 2**18}
LOGITS_AT_ONCE_ELSEWHERE = 2**24


def rows_at_once(logits: Tensor) -> int:
    """Number of rows of logits (R, K) to process together, at least 1."""
    return max(1, logits_at_once(logits) // logits.shape[1])


def logits_at_once(logits: Tensor) -> int:
    """Number of logits to process together on their device."""
    return LOGITS_AT_ONCE.get(logits.device.type, LOGITS_AT_ONCE_ELSEWHERE)


def working_type(logits: Tensor) -> torch.dtype:
    """The dtype in which losses are computed: float32, or float64 for float64 logits."""
    return torch.promote_types(logits.dtype, torch.float32)
