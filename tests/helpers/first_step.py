"""The first training step of a run in float64, where rounding hides no mistakes, and its first steps in float32."""

from typing import Any

import torch
from torch import Tensor, nn

from retinanet.config import Config
from retinanet.data.build import load_train_data, train_loader
from retinanet.detection.build import build_assignment
from retinanet.engine.optimizer import build_optimizer
from retinanet.engine.step import TrainStep
from retinanet.losses.build import build_loss
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.runtime.distributed import sum_over_ranks, world_size

CPU = torch.device("cpu")


def first_step(cfg: Config, device: torch.device = CPU) -> dict[str, Any]:
    """Losses and gradients of the first global batch, and the norm statistics after its forward pass. Collective."""
    data = load_train_data(cfg)
    torch.manual_seed(cfg.train.seed)
    model = build_model(cfg.model, len(data.class_names))
    if cfg.model.backbone.norm == "sync" and device.type == "cuda":  # as in real runs
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.double().to(device).train()
    step = _train_step(cfg, model, len(data.class_names), clip_norm=None)
    batches = [batch.to(device) for batch in train_loader(cfg, data, start=0, stop=1, pin_memory=False)]
    losses, num_positive = step.backward(batches)
    means = {name: sum_over_ranks(value.double()) / world_size() for name, value in losses._asdict().items()}
    return {
        "losses": means,
        "num_positive": num_positive,
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "statistics": dict(model.named_buffers()),
    }


def trained_weights(cfg: Config, num_steps: int) -> tuple[Tensor, Tensor]:
    """All parameters, concatenated, before and after `num_steps` steps at the full learning rate. Collective."""
    data = load_train_data(cfg)
    torch.manual_seed(cfg.train.seed)
    model = build_model(cfg.model, len(data.class_names)).train()
    step = _train_step(cfg, model, len(data.class_names), clip_norm=cfg.train.clip_norm)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    for number, batch in enumerate(train_loader(cfg, data, start=0, stop=num_steps, pin_memory=False), start=1):
        step([batch], number)
    return before, nn.utils.parameters_to_vector(model.parameters()).detach()


def _train_step(cfg: Config, model: RetinaNet, num_classes: int, *, clip_norm: float | None) -> TrainStep:
    return TrainStep(
        model,
        build_loss(cfg.loss, num_classes=num_classes),
        build_optimizer(model, cfg.train),
        torch.amp.GradScaler("cpu", enabled=False),
        assign=build_assignment(cfg.assignment),
        dtype=torch.float32,  # no autocast: the network computes in the dtype of its weights
        clip_norm=clip_norm,
    )
