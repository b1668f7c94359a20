"""Whole runs on a GPU: resuming, running out of memory, and sharing a batch between two GPUs."""

import pytest
import torch
from torch.testing import assert_close

from retinanet.config import Config
from retinanet.config.load import load_config
from retinanet.engine.train import train
from retinanet.errors import InputError
from tests.helpers.devices import CPU, DEVICES
from tests.helpers.first_step import first_step
from tests.helpers.processes import run_together
from tests.helpers.states import assert_same_state
from tests.helpers.tiny_runs import record_of_run, write_tiny_dataset

pytestmark = pytest.mark.usefixtures("restore_process_settings")

FIRST_STEP = """
    import sys, torch
    from retinanet.config.load import load_config
    from retinanet.runtime.device import resolve_device
    from retinanet.runtime.distributed import process_group, rank
    from tests.helpers.first_step import first_step
    file, device, *overrides = sys.argv[1:]
    device = resolve_device(device)
    with process_group(device, timeout=300):
        torch.save(first_step(load_config("quickstart", overrides), device), f"{file}.{rank()}")
"""


@pytest.fixture
def tiny_config(tmp_path) -> Config:
    source = write_tiny_dataset(tmp_path / "images")
    return Config.model_validate(
        {
            "data": {"train": source, "val": source, "workers": 0, "resize": {"shorter": (32,), "longer": 64}},
            "model": {"backbone": {"weights": "none", "frozen_stages": 0}, "channels": 4, "head_convs": 1},
            "train": {
                "steps": 6, "batch_size": 2, "log_every": 2, "eval_every": 6, "save_every": 6, "warmup_steps": 0,
                "ema_decay": 0.9, "deterministic": True, "precision": "fp32",
            },
        }
    )  # fmt: skip


def changed(cfg: Config, device: torch.device, **settings) -> Config:
    train_settings = cfg.train.model_copy(update=settings)
    return cfg.model_copy(update={"device": device.type, "train": train_settings})


@pytest.mark.parametrize("device", DEVICES)
def test_resumed_run_is_bit_for_bit_equal(device, tiny_config, tmp_path):
    whole = record_of_run(changed(tiny_config, device), tmp_path / "whole")
    stopped = record_of_run(changed(tiny_config, device, max_hours=1e-9), tmp_path / "parts")
    assert stopped["result"]["step"] == 2
    resumed = record_of_run(changed(tiny_config, device), tmp_path / "parts", resume=True)
    assert resumed["error"] is None
    for name in ("result", "metrics", "weights", "detections"):
        assert_same_state(resumed[name], whole[name])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resumed_run_of_a_real_network_is_bit_for_bit_equal(precision, tiny_overrides, tmp_path):
    settings = [*tiny_overrides, "device=cuda", "train.compile=false", f"train.precision={precision}"]

    def weights_of(folder, *overrides, resume=False):
        result = train(load_config("quickstart", [*settings, *overrides]), folder, resume=resume)
        return torch.load(result.folder / "checkpoints/last.pt", map_location="cpu", weights_only=True)["state"]

    whole = weights_of(tmp_path / "whole")
    weights_of(tmp_path / "parts", "train.max_hours=1e-9")
    resumed = weights_of(tmp_path / "parts", resume=True)
    for part in ("model", "optimizer", "schedule", "scaler", "running"):
        assert_same_state(dict(resumed[part]), dict(whole[part]))


@pytest.mark.gpu
def test_running_out_of_memory_names_the_batch_and_the_keys(tiny_overrides, tmp_path):
    """A sixteenth of a gibibyte holds neither the weights with their momentum nor a batch."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**26) / total)
    try:
        with pytest.raises(InputError, match=r"out of memory with .*raise train\.accumulate .*train\.batch_size \(4"):
            train(load_config("quickstart", [*tiny_overrides, "device=cuda", "train.compile=false"]), tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.mark.parametrize(
    ("device", "norm"),
    [
        pytest.param("cpu", "frozen", marks=pytest.mark.slow),
        pytest.param("cuda", "frozen", marks=pytest.mark.gpu),
        pytest.param("cuda", "sync", marks=pytest.mark.gpu),
    ],
)
def test_two_devices_compute_the_gradients_of_one(device, norm, tiny_overrides, tmp_path):
    """Over gloo on a CPU, over NCCL on two GPUs; in float64, where only the order of sums differs."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    overrides = [*tiny_overrides, f"model.backbone.norm={norm}", f"device={device}"]
    run_together(2, FIRST_STEP, [str(tmp_path / "step"), device, *overrides])
    parts = [torch.load(f"{tmp_path / 'step'}.{rank}", map_location=CPU, weights_only=True) for rank in range(2)]
    expected = first_step(load_config("quickstart", overrides))
    for part in parts:
        assert_close(part["losses"], expected["losses"], rtol=1e-5, atol=0)
        assert part["gradients"].keys() == expected["gradients"].keys()
        for name, gradient in part["gradients"].items():
            reference = expected["gradients"][name]
            assert (gradient - reference).norm() <= 1e-5 * reference.norm() + 1e-9, name
