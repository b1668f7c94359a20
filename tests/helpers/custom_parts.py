"""A dataset, a model and a loss as users write them, and a config for short runs with them."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retinanet.config import Config
from retinanet.config.load import config_from_values
from retinanet.detection.anchors import AnchorGenerator
from retinanet.formats.dataset import ImageRecord


def config(**train: object) -> Config:
    """A config of four steps on a CPU, without data."""
    values = {
        "data": {"workers": 0, "resize": {"shorter": [32], "longer": 64, "divisor": 8}},
        "train": {
            "steps": 4, "batch_size": 2, "log_every": 1, "save_every": 2, "eval_every": 2, "warmup_steps": 0,
            "precision": "fp32", "deterministic": True, **train,
        },
        "device": "cpu",
    }  # fmt: skip
    return config_from_values(values, source="test")


class NoiseDataset:
    """Noise images with a square each."""

    class_names = ("cat", "dog")

    def __init__(self, count: int = 6, *, first: int = 0, channels: int = 3):
        self.seeds = range(first, first + count)
        self.channels = channels

    def __len__(self) -> int:
        return len(self.seeds)

    def image(self, index: int) -> ImageRecord:
        seed = self.seeds[index]
        return ImageRecord(
            path=f"noise.{seed}",
            image_id=seed,
            height=32,
            width=48,
            boxes=np.array([[4 + seed, 4, 24 + seed, 24]]),
            labels=np.array([seed % 2]),
            is_crowd=np.array([False]),
        )

    def read_image(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seeds[index])
        return torch.randint(256, (self.channels, 32, 48), dtype=torch.uint8, generator=generator)


class MoreOutputs(NamedTuple):
    """Raw outputs with an additional field."""

    class_logits: list[Tensor]
    box_deltas: list[Tensor]
    anchors: list[Tensor]
    quality: list[Tensor]
    embedding: Tensor


class OneLevel(nn.Module):
    """A model of one convolution on one level, which is not a `RetinaNet`."""

    def __init__(self, num_classes: int = 2, *, channels: int = 3):
        super().__init__()
        self.num_classes = num_classes
        self.anchors = AnchorGenerator(strides=(8,), sizes=(20,), scales=(1.0,), aspect_ratios=(1.0,))
        self.convolution = nn.Conv2d(channels, num_classes + 5, 8, stride=8)

    def forward(self, images: Tensor, image_sizes: Tensor) -> MoreOutputs:
        features = self.convolution(images.float() / 255).permute(0, 2, 3, 1).flatten(1, 2)
        logits, deltas, quality = features.split([self.num_classes, 4, 1], dim=-1)
        anchors = self.anchors(*images.shape[-2:], images.device)
        return MoreOutputs([logits], [deltas], anchors, [quality[..., 0]], features.mean())


class CrossEntropy:
    """A class loss without a derivative of its own."""

    needs_iou = False
    has_background_logit = False

    def __call__(self, logits: Tensor, labels: Tensor, valid: Tensor, iou: Tensor | None = None) -> Tensor:
        targets = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].float()
        loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
        return torch.where(valid[..., None], loss, 0).sum()


def parts() -> dict:
    """All custom parts of a run, always with the same initial weights."""
    torch.manual_seed(0)
    return {
        "dataset": NoiseDataset(),
        "val_dataset": NoiseDataset(2, first=6),
        "model": OneLevel(),
        "loss": CrossEntropy(),
    }
