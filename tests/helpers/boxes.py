"""Random boxes."""

import torch
from torch import Tensor


def random_boxes(count: int, seed: int, smallest: float = 4.0) -> Tensor:
    """Boxes (count, 4) in an image of about 120 pixels, with sides of at least `smallest`."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 80
    return torch.cat([corner, corner + smallest + torch.rand(count, 2, generator=generator) * 40], dim=1)
