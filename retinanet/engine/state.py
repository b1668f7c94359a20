"""What changes while a run goes on: all of it lies in a checkpoint, and nothing of it anywhere else."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from retinanet.checkpoint.file import read_checkpoint, weights_to_predict_with
from retinanet.config import Config
from retinanet.engine.ema import EMA
from retinanet.engine.metrics import RunningMeans
from retinanet.engine.nonfinite.guard import NonFiniteGuard
from retinanet.engine.optimizer import build_optimizer, build_schedule, restore_optimizer
from retinanet.model.finetune import load_for_finetuning
from retinanet.model.retinanet import RetinaNet, build_model, build_model_for_training
from retinanet.runtime.device import memory_format_for
from retinanet.runtime.distributed import broadcast_tensors, world_size
from retinanet.structures import Unreadable

log = logging.getLogger(__name__)


class TrainState:
    """Weights and their average, optimizer, schedule, gradient scale, position, open window of the log, best score.

    Args:
        model: on its device.
    """

    def __init__(
        self,
        model: RetinaNet,
        ema: EMA | None,
        optimizer: Optimizer,
        schedule: LambdaLR,
        scaler: torch.amp.GradScaler,
        guard: NonFiniteGuard,
        running: RunningMeans,
        arithmetic: dict[str, Any],
    ):
        self.model = model
        self.ema = ema
        self.optimizer = optimizer
        self.schedule = schedule
        self.scaler = scaler
        self.guard = guard
        self.running = running
        self.arithmetic = arithmetic  # decides in which order numbers are added, see `arithmetic_of`
        self.step = 0
        self.seconds = 0.0  # of the run up to here
        self.best_ap = math.nan
        self.evaluations_since_best = 0
        self.unreadable: list[Unreadable] = []  # images met since they were last written down

    @property
    def evaluated(self) -> RetinaNet:
        """The network that is scored and predicted with."""
        return self.ema.model if self.ema else self.model

    def share_statistics(self) -> None:
        """Give every process the batch norm statistics of the main one, where each has those of its own images."""
        for model in [self.model, *([self.ema.model] if self.ema else [])]:
            norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
            broadcast_tensors([values for norm in norms for values in norm.buffers()])

    def state_dict(self) -> dict[str, Any]:
        """All processes call it together; it is the main one's that is kept."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "guard": self.guard.state_dict(),
            "running": self.running.state_dict(),
            "rng_state": torch.get_rng_state(),
            "seconds": self.seconds,
            "best_ap": self.best_ap,
            "evaluations_since_best": self.evaluations_since_best,
            "arithmetic": self.arithmetic,
        }

    def load(self, content: dict[str, Any], path: Path) -> None:
        """Go on from a checkpoint, and say what makes results differ in their last digits."""
        self.model.load_state_dict(content["model"])
        if self.ema:
            self.ema.load_state_dict(content["ema"])
        restore_optimizer(self.optimizer, content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        self.scaler.load_state_dict(content["scaler"])
        self.guard.load_state_dict(content["guard"])
        self.running.load_state_dict(content["running"])
        torch.set_rng_state(content["rng_state"])
        self.step, self.seconds = content["step"], content["seconds"]
        self.best_ap, self.evaluations_since_best = content["best_ap"], content["evaluations_since_best"]
        before, now = content["arithmetic"], self.arithmetic
        known = before.keys() & now.keys()  # of an earlier version some are not told
        changed = {
            name: f"{name} {before[name]}, now {now[name]}" for name in sorted(known) if before[name] != now[name]
        }
        if changed:
            log.warning(
                "%s was written with %s: results will differ in their last digits", path, "; ".join(changed.values())
            )
        # Parts that are normalised together: those of a process with batch norm, those of all with sync.
        of_parts = {"batch": {"processes", "train.accumulate"}, "sync": {"train.accumulate"}}.get(now["norms"], set())
        if changed.keys() & of_parts:
            log.warning(
                "norms of other parts of a batch than before (model.backbone.norm: %s): it is another run", now["norms"]
            )


def arithmetic_of(cfg: Config, model: RetinaNet, dtype: torch.dtype, compile: bool) -> dict[str, Any]:
    """What decides in which order numbers are added: with all of it the same, a run is the same to the last bit."""
    return {
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "train.accumulate": cfg.train.accumulate,
        "precision": str(dtype).removeprefix("torch."),
        "compiled": compile,
        "torch": str(torch.__version__),
        "norms": cfg.model.backbone.norm,
        "memory format": str(model.memory_format).removeprefix("torch."),
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "device": next(model.parameters()).device.type,
    }


def build_state(
    cfg: Config,
    class_names: tuple[str, ...],
    *,
    num_steps: int,
    device: torch.device,
    dtype: torch.dtype,
    compile: bool,
    content: dict[str, Any] | None,
    path: Path | None,
) -> TrainState:
    """The state at the start of a run, or that of a checkpoint: its content and where it was read from.

    Raises:
        InputError: the weights that the config names cannot be used.
    """
    if content or cfg.train.init_from:  # weights that are about to be replaced need no download
        model = build_model(cfg.model, len(class_names))
    else:
        model = build_model_for_training(cfg.model, len(class_names))
    if cfg.train.init_from and not content:
        source = cfg.train.init_from
        trained = read_checkpoint(source)
        remade = load_for_finetuning(model, trained, weights_to_predict_with(trained), class_names, source=source)
        log.info("weights from %s%s", source, "".join(f"\n  {line}" for line in remade))
    if cfg.model.backbone.norm == "sync" and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device=device, memory_format=memory_format_for(device, dtype)).train()
    optimizer = build_optimizer(model, cfg.train)
    scaled = dtype == torch.float16
    guard = NonFiniteGuard(
        model, optimizer, device, action=cfg.train.on_nonfinite, limit=cfg.train.max_skipped, scaled=scaled
    )
    state = TrainState(
        model,
        EMA(model, cfg.train.ema_decay) if cfg.train.ema_decay else None,
        optimizer,
        build_schedule(optimizer, cfg.train, num_steps),
        torch.amp.GradScaler(device.type, enabled=scaled),
        guard,
        RunningMeans(device, skips=scaled or cfg.train.on_nonfinite == "skip"),
        arithmetic_of(cfg, model, dtype, compile),
    )
    if content:
        state.load(content, path)
    return state
