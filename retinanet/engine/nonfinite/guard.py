"""Steps whose gradient is not finite: found and undone on the device, and told when the log is read anyway."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from retinanet.config.train import NonFiniteAction
from retinanet.errors import InputError

# In a row, the scale of the gradient has fallen by 2**40: what still overflows then is not a matter of the scale.
MOST_OVERFLOWS = 40


class BadStep(NamedTuple):
    """What happened since the last reading."""

    step: int  # number of the first step whose gradient was not finite
    count: int  # steps left out: with "stop" every one from that step on


class NonFiniteGradient(InputError):
    """Training diverged: more steps had no finite gradient than a run is allowed to leave out."""

    def __init__(self, message: str, bad_step: BadStep):
        super().__init__(message)
        self.bad_step = bad_step


class NonFiniteGuard:
    """Keeps steps without a finite gradient from changing anything, without a wait for the device.

    Call `before_step` before the first forward pass of a step, and `mask` between the gradient norm and the optimizer.
    Weights and what the optimizer keeps are left alone by the fused optimizer itself, which takes `found_inf`; the
    running statistics of batch norms, which the forward pass has moved by then, are put back.

    Args:
        model: on its device, with statistics that stay the same tensors.
        optimizer: fused, with momentum that exists before the first step, as `build_optimizer` makes it.
        action: "stop" leaves out every step from the first bad one to the next reading, so that the weights are still
            those that it met. "skip" leaves out that step alone.
        limit: with "skip", how many steps of a run may be left out.
        scaled: a gradient scaler is at work, as in float16. It leaves out steps that overflow by itself and lowers the
            scale, which is no fault: statistics are put back, and nothing is reported but overflow without an end.
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
        assert all(group["fused"] for group in optimizer.param_groups), "only fused optimizers take found_inf"
        self.skipped = 0  # steps of the run that "skip" left out, as of the last reading
        self._optimizer = optimizer
        self._action = action
        self._limit = limit
        self._scaled = scaled
        self._statistics = moving_statistics(model)
        self._saved = [torch.cat([tensor.flatten() for tensor in group]) for group in self._statistics]
        self._found_inf = torch.zeros((), device=device)
        self._counters = torch.zeros(3, dtype=torch.int64, device=device)

    def before_step(self) -> None:
        """Keep the statistics as they are now."""
        for saved, live in zip(self._saved, self._statistics, strict=True):
            torch._foreach_copy_(_split_like(saved, live), live)

    @torch.no_grad()
    def mask(self, grad_norm: Tensor, step: int) -> Tensor:
        """Tell the optimizer whether to leave out its next step, and put the statistics back where it will.

        Args:
            grad_norm: () of the whole gradient, the same on every rank.
            step: its number, for the report.

        Returns: () float32, 1 where the step is left out, else 0; the same tensor in every step.
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
            # In no state dict, and taken away by a scaler: set in every step. The scaler has one of its own.
            self._optimizer.found_inf = self._found_inf
        for saved, live in zip(self._saved, self._statistics, strict=True):
            # A choice, not a product with the flag: what is put back over may be NaN.
            chosen = torch.where(bad, saved, torch.cat([tensor.flatten() for tensor in live]))
            torch._foreach_copy_(live, _split_like(chosen, live))
        return self._found_inf

    def read(self) -> BadStep | None:
        """What was left out since the last reading: the one wait for the device. Begins anew.

        Raises:
            NonFiniteGradient: more than the limit, or, with a scaler, overflow at any scale.
        """
        first, count, in_a_row = self._counters.tolist()
        self._counters[:2].zero_()
        if count == 0:
            return None
        bad = BadStep(first, count)
        if self._scaled:
            if in_a_row > MOST_OVERFLOWS:
                raise NonFiniteGradient(
                    f"step {first + count - 1}: the last {in_a_row} steps in a row had no finite gradient, however far "
                    "the loss was scaled down, so float16 is not the reason; set train.precision=bf16 or fp32 to find "
                    "the step that begins it",
                    bad,
                )
            return None
        if self._action == "skip":
            self.skipped += count
            if self.skipped > self._limit:
                raise NonFiniteGradient(
                    f"step {first}: the gradient was not finite, in {count} step(s) since the last log line and in "
                    f"{self.skipped} of the run, more than the {self._limit} that may be left out; lower "
                    "train.optimizer.lr, raise train.warmup_steps, set train.clip_norm, or look at the images of the "
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
    """The running statistics and counters of batch norms, those of one type together: what a forward pass changes."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    tensors = [tensor for norm in norms for tensor in norm.buffers(recurse=False)]
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())


def _split_like(flat: Tensor, shapes: list[Tensor]) -> list[Tensor]:
    """Views into a vector, of the shapes of other tensors one after the other."""
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape.shape) for part, shape in zip(parts, shapes, strict=True)]
