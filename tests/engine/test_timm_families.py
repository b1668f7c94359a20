"""timm backbones of many families: a training step, prediction with folded norms, and a resumed run."""

import math
import shutil

import pytest
import torch
from torch.testing import assert_close

from retinanet.checkpoint.file import read_checkpoint
from retinanet.config import Config, ModelConfig, TimmConfig
from retinanet.engine.train import train
from retinanet.inference.network import inference_model
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model
from tests.helpers.backbones import spread_out
from tests.helpers.metrics import metrics_without_times
from tests.helpers.states import assert_same_state
from tests.helpers.tiny_runs import write_tiny_dataset

pytest.importorskip("timm", reason="needs timm")
pytestmark = pytest.mark.usefixtures("restore_process_settings")

# The smallest variant of each family.
FAMILIES = [
    "convnext_atto",
    "tinynet_e",  # an EfficientNet
    "mobilenetv4_conv_small_035",
    "mobilenetv3_small_050",
    "regnetx_002",
    "ghostnet_050",
    "resnet10t",  # a ResNet-D
    "edgenext_xx_small",
    "fastvit_t8",
    "pvt_v2_b0",
    "test_mambaout",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("swin_tiny_patch4_window7_224", "resnest14d", "hrnet_w18_small", "densenet121")
    ),
]
IMAGES = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGE_SIZES = torch.tensor([[64, 96], [50, 80]])


def config(name, source):
    """Two steps on images of 64x96 pixels."""
    return Config.model_validate(
        {
            "data": {
                "train": (source,),
                "val": (source,),
                "workers": 0,
                "resize": {"shorter": (64,), "longer": 96, "divisor": 32},
            },
            "model": {
                "backbone": {"type": "timm", "name": name, "weights": "none", "frozen_stages": 0, "norm": "batch"},
                "channels": 16,
                "head_convs": 1,
            },
            "inference": {"precision": "fp32"},
            "train": {
                "steps": 2,
                "batch_size": 2,
                "log_every": 1,
                "save_every": 1,
                "eval_every": 2,
                "keep_checkpoints": 2,
                "ema_decay": 0.5,
                "precision": "fp32",
                "optimizer": {"type": "sgd", "lr": 1e-3},
                "reference_batch_size": None,
                "warmup_steps": 0,
            },
            "device": "cpu",
        }
    )


def network(name):
    torch.manual_seed(0)
    backbone = TimmConfig(name=name, weights="none", frozen_stages=0, norm="batch")
    return build_model(ModelConfig(backbone=backbone, channels=16, head_convs=1), 2)


def all_outputs(model):
    outputs = model(IMAGES, IMAGE_SIZES)
    return [*outputs.class_logits, *outputs.box_deltas]


def assert_same_outputs(folded, model):
    with torch.no_grad():
        expected = all_outputs(model.eval())
    for one, other in zip(all_outputs(folded), expected, strict=True):
        assert_close(one, other, rtol=0, atol=1e-4 * other.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_step_changes_the_stem_and_folded_network_equals_the_trained_one(name, caplog):
    model = network(name).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(2):  # in the second step, the statistics of batch norms are those of the first
        loss = sum(level.square().mean() for level in all_outputs(model))
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.backbone.stages()[0]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.backbone.stages()[0])
    assert_same_outputs(inference_model(spread_out(model), dtype=torch.float32, compile=False), model)
    assert caplog.text == ""  # the norms are folded


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_resumed_run_is_bit_identical_and_its_checkpoint_predicts(name, tmp_path):
    cfg = config(name, write_tiny_dataset(tmp_path / "images"))
    train(cfg, tmp_path / "straight")
    losses = [line["loss"] for line in metrics_without_times(tmp_path / "straight") if line["kind"] == "train"]
    assert len(losses) == 2 and all(map(math.isfinite, losses))

    shutil.copytree(tmp_path / "straight", tmp_path / "resumed", symlinks=True)
    (tmp_path / "resumed/checkpoints/step_00000002.pt").unlink()
    train(cfg, tmp_path / "resumed", resume=True)
    last = tmp_path / "resumed/checkpoints/step_00000002.pt"
    resumed, straight = read_checkpoint(last), read_checkpoint(tmp_path / "straight/checkpoints/step_00000002.pt")
    for part in ("model", "ema", "optimizer"):
        assert_same_state(resumed.state[part], straight.state[part])

    model = build_model(cfg.model, 2)
    model.load_state_dict(resumed.weights())
    assert_same_outputs(Predictor.from_checkpoint(last).model, model)
