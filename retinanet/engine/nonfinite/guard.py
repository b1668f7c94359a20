"""Skip steps with non-finite gradients on the device, and report them at the next regular synchronisation."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from retinanet.config.train import NonFiniteAction
from retinanet.errors import InputError

# After this many overflows in a row, the loss scale has been reduced by a factor of 2**40: if the gradient still
# overflows, the scale is not the cause.
MOST_OVERFLOWS = 40


class BadStep(NamedTuple):
    """Steps with non-finite gradients since the last call to `NonFiniteGuard.read`."""

    step: int  # number of the first step with a non-finite gradient
    count: int  # number of skipped steps; with "stop", this includes all steps after the first non-finite one


class NonFiniteGradient(InputError):
    """Training diverged: a gradient was not finite, or more steps were skipped than allowed."""

    def __init__(self, message: str, bad_step: BadStep):
        super().__init__(message)
        self.bad_step = bad_step


class NonFiniteGuard:
    """Prevents steps with non-finite gradients from changing any state, without waiting for the device.

    Call `before_step` before the first forward pass of a step, and `mask` after computing the gradient norm but before
    the optimizer step. If `found_inf` is set, the fused optimizer changes neither the weights nor its own state. The
    running statistics of batch norm layers, which the forward pass has already updated, are restored.

    Args:
        model: already on its device. The tensors with its running statistics must not be replaced later.
        optimizer: must be fused, with momentum buffers allocated before the first step, as `build_optimizer` does.
        action: "stop" skips all steps from the first non-finite one until `read` is called, which preserves the weights
            from before that step. "skip" skips only steps with non-finite gradients.
        limit: with "skip", the maximum number of steps that a run may skip.
        scaled: whether a gradient scaler is used, as in float16. The scaler skips steps that overflow and lowers the
            scale, which is normal. The guard then only restores the statistics, and reports only persistent overflow.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        device: torch.device,
        *,
        action: NonFiniteAction,
        limit: int,
        scaled: bool = False,
    ):
        assert all(group["fused"] for group in optimizer.param_groups), "only fused optimizers support found_inf"
        self.skipped = 0  # number of steps skipped during the run by "skip", as of the last call to `read`
        self._optimizer = optimizer
        self._action = action
        self._limit = limit
        self._scaled = scaled
        self._statistics = moving_statistics(model)
        self._saved = [torch.cat([tensor.flatten() for tensor in group]) for group in self._statistics]
        self._found_inf = torch.zeros((), device=device)
        self._counters = torch.zeros(3, dtype=torch.int64, device=device)

    def before_step(self) -> None:
        """Save a copy of the current running statistics."""
        for saved, live in zip(self._saved, self._statistics, strict=True):
            torch._foreach_copy_(_split_like(saved, live), live)

    @torch.no_grad()
    def mask(self, grad_norm: Tensor, step: int) -> Tensor:
        """Make the optimizer skip its next step if the gradient is not finite, and restore the running statistics.

        Args:
            grad_norm: (), total gradient norm, the same on every rank.
            step: number of the step, for the report.

        Returns: () float32, 1 if the step is skipped, otherwise 0. All calls return the same tensor, updated in place.
        """
        first, count, in_a_row = self._counters.unbind()
        bad = ~torch.isfinite(grad_norm)
        if self._action == "stop" and not self._scaled:
            bad = bad | (count > 0)
        first.copy_(torch.where(bad & (count == 0), step, first))
        count.add_(bad)
        in_a_row.add_(1).mul_(bad)
        self._found_inf.copy_(bad)
        if not self._scaled:
            # Set it at every step: state dicts do not include it, and a scaler deletes it. An enabled scaler sets its
            # own.
            self._optimizer.found_inf = self._found_inf
        for saved, live in zip(self._saved, self._statistics, strict=True):
            # Use `where`, not a multiplication: the current statistics may be NaN.
            chosen = torch.where(bad, saved, torch.cat([tensor.flatten() for tensor in live]))
            torch._foreach_copy_(live, _split_like(chosen, live))
        return self._found_inf

    def read(self) -> BadStep | None:
        """Return the steps skipped since the last call, and reset the counters. Waits for the device once.

        Raises:
            NonFiniteGradient: the run has skipped more steps than `limit`, or gradients overflow at every loss scale.
        """
        first, count, in_a_row = self._counters.tolist()
        self._counters[:2].zero_()
        if count == 0:
            return None
        bad = BadStep(first, count)
        if self._scaled:
            if in_a_row > MOST_OVERFLOWS:
                raise NonFiniteGradient(
                    f"step {first + count - 1}: the last {in_a_row} steps all had a non-finite gradient at every "
                    "loss scale, so float16 is not the cause; set train.precision=bf16 or fp32 to find the step that "
                    "caused it",
                    bad,
                )
            return None
        if self._action == "skip":
            self.skipped += count
            if self.skipped > self._limit:
                raise NonFiniteGradient(
                    f"step {first}: the gradient was not finite in {count} step(s) since the last log line; the run "
                    f"has skipped {self.skipped} step(s), more than train.max_skipped ({self._limit}); lower "
                    "train.optimizer.lr, raise train.warmup_steps, set train.clip_norm, or check the images of the "
                    "report",
                    bad,
                )
        return bad

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "counters": self._counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped = state["skipped"]
        self._counters.copy_(state["counters"])


def moving_statistics(model: nn.Module) -> list[list[Tensor]]:
    """Running statistics and counters of batch norm layers, which every forward pass updates, grouped by dtype."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    tensors = [tensor for norm in norms for tensor in norm.buffers(recurse=False)]
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())


def _split_like(flat: Tensor, shapes: list[Tensor]) -> list[Tensor]:
    """Split a vector into consecutive views with the same shapes as the given tensors."""
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape.shape) for part, shape in zip(parts, shapes, strict=True)]
