"""Small batches, models and training steps, on any device."""

from typing import Any

import pytest
import torch

from retinanet.config import LossConfig, SGDConfig, TrainConfig
from retinanet.config.assignment import AssignmentConfig, IoUAssignmentConfig
from retinanet.data.collate import pad_targets
from retinanet.detection.build import build_assignment
from retinanet.engine.optimizer import build_optimizer
from retinanet.engine.step import TrainStep
from retinanet.losses.build import build_loss
from retinanet.model import retinanet as network
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.structures import Batch
from tests.helpers.backbones import ThreeConvolutions
from tests.helpers.models import model_config

NUM_CLASSES = 5
HEIGHT, WIDTH = 64, 96


def batch_of(height: int = HEIGHT, width: int = WIDTH) -> Batch:
    """Two images: one with three objects and a crowd region, one without objects and 20 pixels narrower."""
    boxes = torch.tensor(
        [[5.0, 5.0, 40.0, 50.0], [30.0, 10.0, 90.0, 60.0], [2.0, 3.0, 7.0, 9.0], [50.0, 0.0, 90.0, 30.0]]
    )
    crowd = torch.tensor([False, False, False, True])
    nothing = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[height, width], [height, width - 20]])
    images = torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    return Batch(images, sizes, sizes, pad_targets([(boxes, torch.tensor([0, 4, 2, 0]), crowd), nothing]), (0, 1))


def model_of(norm: str = "frozen", **settings: Any) -> RetinaNet:
    """A small network in training mode, the same in every call."""
    torch.manual_seed(0)
    cfg = model_config(norm=norm, channels=64, head_convs=1, **settings)
    return build_model(cfg, NUM_CLASSES).train()


def tiny_model_of(**settings: Any) -> RetinaNet:
    """A network with a backbone of three convolutions, in training mode, the same in every call."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "build_backbone", lambda cfg, **_: ThreeConvolutions())
        return build_model(model_config(channels=8, head_convs=1, **settings), NUM_CLASSES).train()


def step_of(
    model: RetinaNet,
    *,
    dtype: torch.dtype = torch.float32,
    optimizer: Any = None,
    scaled: bool = False,
    compile: bool = False,
    clip_norm: float | None = 10.0,
    loss: LossConfig | None = None,
    assignment: AssignmentConfig | None = None,
) -> TrainStep:
    """A training step for a model, by default with the default losses and optimizer."""
    cfg = TrainConfig(epochs=1, optimizer=optimizer or SGDConfig(), reference_batch_size=None)
    return TrainStep(
        model,
        build_loss(loss or LossConfig(), compile=compile),
        build_optimizer(model, cfg),
        torch.amp.GradScaler(next(model.parameters()).device.type, enabled=scaled),
        assign=build_assignment(assignment or IoUAssignmentConfig()),
        dtype=dtype,
        clip_norm=clip_norm,
        compile=compile,
    )
