"""The normalisations that a config can name."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torchvision.ops import FrozenBatchNorm2d

from retinanet.config.model import Norm
from retinanet.runtime.distributed import world_size

GROUPS = 32


def norm_layer(norm: Norm) -> Callable[[int], nn.Module]:
    """The normalisation that a configuration names, as a function of the channel count."""
    match norm:
        case "frozen":
            return FrozenBatchNorm2d
        case "batch":
            return nn.BatchNorm2d
        case "sync":
            return SyncBatchNorm
        case "group":
            return partial(nn.GroupNorm, GROUPS)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of the whole batch over all processes, on a CPU, which torch's refuses.

    Not a kind of torch's: DistributedDataParallel looks for those, and refuses a CPU too. On CUDA
    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` puts torch's in the place of these.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape, normalised."""
        if not self.training or world_size() == 1:
            if self.training:
                self.num_batches_tracked.add_(1)
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
            )
        return self._over_ranks(x)

    def _over_ranks(self, x: Tensor) -> Tensor:
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        # Ranks may hold different numbers of images, so sums are shared, and the count with them.
        ones = values.new_full((1,), x.numel() / x.shape[1])
        sums = all_reduce(torch.cat([values.sum((0, 2, 3)), ones]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        # Squares of what is left, not of the values: their difference would lose digits.
        centred = values - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
