import pytest
import torch

from retinanet.config_file import load_config
from retinanet.engine.memory import is_out_of_memory
from retinanet.engine.train import train
from retinanet.errors import InputError
from retinanet.model.retinanet import RetinaNet


def test_what_is_out_of_memory_and_what_is_not():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)  # an exabyte
    assert is_out_of_memory(refused.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.parametrize(("training", "doing"), [(True, "training, step 1"), (False, "evaluating, step 4")])
def test_the_message_has_the_sizes_at_hand_and_the_keys(tiny_overrides, tmp_path, monkeypatch, training, doing):
    normalise = RetinaNet.normalise

    def hungry(self, images, image_sizes):
        if self.training == training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB\nmore of it")
        return normalise(self, images, image_sizes)

    monkeypatch.setattr(RetinaNet, "normalise", hungry)
    cfg = load_config("quickstart", [*tiny_overrides, "train.eval_batch_size=2"])
    with pytest.raises(InputError) as stopped:
        train(cfg, tmp_path / "run")
    message = str(stopped.value)
    count = 4 if training else 2
    assert message.startswith(f"{doing}, images [")
    assert f"out of memory with {count} pictures of 64x" in message or f"with {count} pictures of 80x" in message
    assert "Tried to allocate 20 MiB; raise train.accumulate (now 1" in message
    for key in ("train.batch_size (4;", "train.eval_batch_size", "data.resize.shorter and longer (64, 96)"):
        assert key in message
