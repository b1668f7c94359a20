"""Training state saved in checkpoints: weights, optimizer, schedule, counters and random number generator."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import Config
from retinanet.data.build import build_uses
from retinanet.data.fingerprint import fingerprint
from retinanet.engine.backbone_freeze import BackboneFreeze
from retinanet.engine.best import BestScore
from retinanet.engine.divergence import DivergenceCheck
from retinanet.engine.ema import EMA
from retinanet.engine.metrics import RunningMeans
from retinanet.engine.nonfinite.guard import NonFiniteGuard
from retinanet.engine.optimizer import build_optimizer, restore_optimizer
from retinanet.engine.schedule import build_schedule
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.interop.initial_weights import read_initial_weights
from retinanet.interop.published import read_model
from retinanet.model.backbone import Backbone
from retinanet.model.detector import Detector, load_weights
from retinanet.model.finetune import load_for_finetuning
from retinanet.model.norm import use_cuda_sync_norms_
from retinanet.model.retinanet import RetinaNet, build_model, build_model_for_training, is_retinanet
from retinanet.runtime.device import memory_format_for
from retinanet.runtime.distributed import broadcast_tensors, world_size
from retinanet.structures import Unreadable

log = logging.getLogger(__name__)


class TrainState:
    """The complete state of a run: model, moving average, optimizer, schedule, gradient scaler, progress, running
    means, best score and divergence check.

    Args:
        model: already on its device.
        arithmetic: the return value of `arithmetic_of`.
        images: fingerprint of the training images, which determine the sample order together with the step.
    """

    def __init__(
        self,
        model: Detector,
        ema: EMA | None,
        optimizer: Optimizer,
        schedule: LambdaLR,
        scaler: torch.amp.GradScaler,
        guard: NonFiniteGuard,
        freeze: BackboneFreeze,
        running: RunningMeans,
        best: BestScore,
        divergence: DivergenceCheck,
        arithmetic: dict[str, Any],
        images: dict[str, Any],
    ):
        self.model = model
        self.ema = ema
        self.optimizer = optimizer
        self.schedule = schedule
        self.scaler = scaler
        self.guard = guard
        self.freeze = freeze
        self.running = running
        self.best = best
        self.divergence = divergence
        self.arithmetic = arithmetic
        self.images = images
        self.step = 0  # number of completed steps
        self.seconds = 0.0  # duration of the run at the last save
        # Images that this process could not read and has not recorded yet, each with its step.
        self.unreadable: list[tuple[int, Unreadable]] = []

    @property
    def evaluated(self) -> Detector:
        """The model used for evaluation and inference: the one with averaged weights, if the run keeps an average."""
        return self.ema.model if self.ema else self.model

    def learning_rates(self) -> dict[str, float]:
        """Learning rates of the next step: `lr`, and `backbone_lr` of the last backbone stage if it has its own.

        While the backbone is frozen, its learning rate is 0.
        """
        rates = [float(rate) for rate in self.schedule.get_last_lr()]
        result = {"lr": rates[0]}
        has_own = len(rates) > 2  # otherwise there are only the two groups with different weight decay
        if self.freeze.num_steps or has_own:
            result["backbone_lr"] = 0.0 if self.freeze.is_due(self.step + 1) else rates[-1]
        return result

    def share_statistics(self) -> None:
        """Copy the batch norm statistics of the main process to all others, replacing their local statistics."""
        for model in [self.model, *([self.ema.model] if self.ema else [])]:
            norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
            broadcast_tensors([values for norm in norms for values in norm.buffers()])

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint, complete only on the main process. Collective."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "guard": self.guard.state_dict(),
            "running": self.running.state_dict(),
            "best": self.best.state_dict(),
            "divergence": self.divergence.state_dict(),
            "rng_state": torch.get_rng_state(),
            "seconds": self.seconds,
            "arithmetic": self.arithmetic,
            "images": self.images,
        }

    def load(self, checkpoint: Checkpoint, path: Path) -> None:
        """Restore the state from a checkpoint, and warn about differences in setup that affect the results."""
        state = checkpoint.state
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.guard.load_state_dict(state["guard"])
        self.running.load_state_dict(state["running"])
        self.best.load_state_dict(state["best"])
        self.divergence.load_state_dict(state["divergence"])
        torch.set_rng_state(state["rng_state"])
        self.step, self.seconds = checkpoint.step, state["seconds"]
        before, now = state["arithmetic"], self.arithmetic
        known = before.keys() & now.keys()  # checkpoints from earlier versions may lack some keys
        changed = {
            name: f"{name} {before[name]}, now {now[name]}" for name in sorted(known) if before[name] != now[name]
        }
        if changed:
            log.warning(
                "%s was written with %s: results will differ in their last digits", path, "; ".join(changed.values())
            )
        # These settings determine which images are normalised together: batch norm computes its statistics within one
        # process, sync norm across all of them.
        splits = {"batch": {"processes", "train.accumulate"}, "sync": {"train.accumulate"}}
        for key, norm in (("model.backbone.norm", now["norms"]), ("model.head_norm", now["head norms"])):
            if changed.keys() & splits.get(norm.removesuffix("_per_level"), set()):
                log.warning(
                    "batch norm now sees different micro-batches (%s: %s): results are not comparable", key, norm
                )


def arithmetic_of(cfg: Config, model: Detector, dtype: torch.dtype, compile: bool) -> dict[str, Any]:
    """Everything that affects the order of floating-point operations. Runs with equal values are bit-identical."""
    device = next(model.parameters()).device
    memory_format = model.memory_format if is_retinanet(model) else memory_format_for(device, dtype)
    return {
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "train.accumulate": cfg.train.accumulate,
        "precision": str(dtype).removeprefix("torch."),
        "compiled": compile,
        "torch": str(torch.__version__),
        "norms": "of a custom model" if cfg.custom.model else cfg.model.backbone.norm,
        "head norms": "of a custom model" if cfg.custom.model else cfg.model.head_norm,
        "memory format": str(memory_format).removeprefix("torch."),
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "device": device.type,
    }


def build_own_model(cfg: Config, train_data: Dataset, *, is_resumed: bool) -> RetinaNet:
    """Build the model of the config with its initial weights; random ones if the run is resumed.

    Raises:
        InputError: the initial weights cannot be used.
    """
    if is_resumed or cfg.train.init_from:  # do not download weights that will be replaced
        model = build_model(cfg.model, len(train_data.class_names))
    else:
        model = build_model_for_training(cfg.model, len(train_data.class_names))
    if cfg.train.init_from and not is_resumed:
        weights = read_initial_weights(cfg.train.init_from)
        loaded = load_for_finetuning(model, cfg.model, weights, train_data.class_names)
        log.info("weights from %s\n%s", weights.source, loaded)
    return model


def load_initial_weights(model: Detector, cfg: Config, *, is_resumed: bool) -> None:
    """Load the weights that `train.init_from` names into a custom model; its tensors must be the same.

    Raises:
        InputError: the weights do not fit.
    """
    source = cfg.train.init_from
    if source and not is_resumed:
        load_weights(model, read_model(source).weights(), source=source)
        log.info("weights from %s", source)


def backbone_with_stages(model: Detector, cfg: Config) -> Backbone | None:
    """Return the backbone of a model; None for a custom model whose backbone does not list its stages.

    Raises:
        InputError: it does not, but a setting needs the stages.
    """
    if is_retinanet(model) and hasattr(model.backbone, "stages"):
        return model.backbone
    optimizer = cfg.train.optimizer
    if optimizer.backbone_lr is not None or optimizer.layer_decay != 1 or cfg.train.freeze_backbone_steps:
        raise InputError(
            "train.optimizer.backbone_lr, train.optimizer.layer_decay and train.freeze_backbone_steps need a RetinaNet "
            f"whose backbone has the method stages(), but the model is {cfg.custom.model}; remove them, or add it"
        )
    return None


def build_state(
    cfg: Config,
    train_data: Dataset,
    *,
    num_steps: int,
    device: torch.device,
    dtype: torch.dtype,
    compile: bool,
    resume_from: tuple[Path, Checkpoint] | None,
    custom_model: Detector | None = None,
) -> TrainState:
    """Build the initial state of a run, or restore it from a checkpoint.

    Args:
        resume_from: path and content of a checkpoint of this run; None starts from the beginning.
        custom_model: model passed in Python; None builds that of the config.

    Raises:
        InputError: the initial weights named in the config cannot be used.
    """
    model: Detector
    if custom_model is not None:
        model = custom_model
        load_initial_weights(model, cfg, is_resumed=resume_from is not None)
        broadcast_tensors(
            [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
        )  # each process has built its own
    else:
        model = build_own_model(cfg, train_data, is_resumed=resume_from is not None)
        if device.type == "cuda" and world_size() > 1:
            use_cuda_sync_norms_(model)
    model.to(device=device, memory_format=memory_format_for(device, dtype)).train()
    backbone = backbone_with_stages(model, cfg)
    optimizer = build_optimizer(model, cfg.train, backbone.stages() if backbone else ())
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
        BackboneFreeze(backbone or nn.Module(), cfg.train.freeze_backbone_steps),
        RunningMeans(device, skips=scaled or cfg.train.on_nonfinite == "skip"),
        BestScore(cfg.train.best_metric),
        DivergenceCheck(device),
        arithmetic_of(cfg, model, dtype, compile),
        fingerprint(train_data, build_uses(cfg.data, train_data)),
    )
    if resume_from:
        path, checkpoint = resume_from
        state.load(checkpoint, path)
    return state
