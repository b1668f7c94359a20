from pathlib import Path

import pytest
import torch

from retinanet.config.load import load_config
from retinanet.engine.train import train
from retinanet.errors import InputError
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.memory import is_out_of_memory, peak_memory


def test_only_memory_errors_count_as_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)  # an exabyte
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_running_out_of_memory_before_the_first_batch_is_an_input_error(tiny_overrides, tmp_path, monkeypatch):
    def run_out_of_memory(*arguments, **keywords):
        raise MemoryError  # without a message

    monkeypatch.setattr("retinanet.engine.setup.build_state", run_out_of_memory)
    with pytest.raises(InputError, match=r"starting: out of memory with no images in this process .*: MemoryError; "):
        train(load_config("quickstart", tiny_overrides), tmp_path / "run")


@pytest.mark.parametrize(("training", "activity"), [(True, "training, step 1"), (False, "evaluating, step 4")])
def test_out_of_memory_message_has_the_current_sizes_and_the_config_keys(
    tiny_overrides, tmp_path, monkeypatch, training, activity
):
    normalise = RetinaNet.normalise

    def run_out_of_memory(self, images, image_sizes):
        if self.training == training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB\nsecond line")
        return normalise(self, images, image_sizes)

    monkeypatch.setattr(RetinaNet, "normalise", run_out_of_memory)
    cfg = load_config("quickstart", [*tiny_overrides, "train.eval_batch_size=2"])
    with pytest.raises(InputError) as caught:
        train(cfg, tmp_path / "run")
    message = str(caught.value)
    count = 4 if training else 2
    assert message.startswith(f"{activity}, images [")
    assert f"out of memory with {count} images of 64x" in message or f"with {count} images of 80x" in message
    assert "Tried to allocate 20 MiB; raise train.accumulate (now 1" in message
    for key in ("train.batch_size (4;", "train.eval_batch_size", "data.resize.shorter and longer (64, 96)"):
        assert key in message


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux has an independent source for the peak")
def test_peak_memory_equals_the_kernels_value_in_bytes():
    torch.ones(50_000_000 // 4)
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    assert peak_memory(torch.device("cpu")) == pytest.approx(1024 * int(peak.split()[1]), rel=0.05)
