"""Inputs for a norm, the same in every process."""

import torch


def images():
    """Random images (5, 6, 3, 4) with a mean of 5 and a standard deviation of 3."""
    return torch.randn(5, 6, 3, 4, generator=torch.Generator().manual_seed(0)) * 3 + 5


def weights():
    """Random gradient of a loss, (5, 6, 3, 4)."""
    return torch.randn(5, 6, 3, 4, generator=torch.Generator().manual_seed(1))
