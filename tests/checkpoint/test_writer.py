import json
import random
import threading
from collections import Counter, OrderedDict

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from retinanet.checkpoint.file import read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.writer import CheckpointWriter, host_copy
from tests.helpers.checkpoints import GatedFolder, checkpoint_of, filled, names, step_files


def test_save_returns_before_the_file_is_written(tmp_path):
    folder = GatedFolder(tmp_path)
    weight = torch.ones(10)
    with CheckpointWriter(folder) as writer:
        writer.save(checkpoint_of(1, weight=weight))
        assert folder.reached.wait(timeout=60)
        writer.mark_best(1)
        weight.fill_(2.0)  # as the next optimizer step would
        assert names(tmp_path) == []  # both calls have returned, and nothing has been written yet
        folder.gate.set()
        writer.wait()
        assert names(tmp_path) == ["best.pt", "last.pt", *step_files(1)]
    assert torch.equal(read_checkpoint(tmp_path / "best.pt").state["weight"], torch.ones(10))


def test_second_save_waits_for_the_first_before_copying(tmp_path):
    folder = GatedFolder(tmp_path)
    weight = torch.ones(10)
    with CheckpointWriter(folder) as writer:
        writer.save(checkpoint_of(1, weight=weight))
        second = threading.Thread(target=writer.save, args=(checkpoint_of(2, weight=weight),))
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive()
        weight.fill_(2.0)  # the second copy has not been made yet, so it contains this value
        folder.gate.set()
        second.join(timeout=60)
    assert read_checkpoint(tmp_path / "step_00000001.pt").state["weight"][0] == 1.0
    assert read_checkpoint(tmp_path / "step_00000002.pt").state["weight"][0] == 2.0


def test_opening_removes_partial_files_of_a_killed_run(tmp_path):
    (tmp_path / "step_00000004.pt.partial").write_text("half")
    (tmp_path / "mine.partial").write_text("mine")
    with CheckpointWriter(CheckpointFolder(tmp_path, keep=2)):
        assert names(tmp_path) == ["mine.partial"]


# ---- bugs


@pytest.mark.parametrize("call", ["save", "mark_best", "wait", "close"])
def test_bug_in_the_thread_is_raised_by_the_next_call(tmp_path, call):
    writer = CheckpointWriter(CheckpointFolder(tmp_path, keep=2))
    writer.save(checkpoint_of(1, output=tmp_path))  # a path could not be read back
    writer._thread.submit(int).result()  # the thread has finished the write
    next_call = {"save": lambda: writer.save(filled(2)), "mark_best": lambda: writer.mark_best(1)}
    with pytest.raises(TypeError, match=r"cannot be read back: it refers to pathlib"):
        next_call.get(call, getattr(writer, call))()
    if call != "close":
        writer.save(filled(3))  # raised only once
        writer.close()
        assert names(tmp_path) == ["last.pt", *step_files(3)]


def test_best_step_must_have_been_saved(tmp_path):
    writer = CheckpointWriter(CheckpointFolder(tmp_path, keep=2))
    writer.mark_best(7)
    with pytest.raises(AssertionError, match="step_00000007"):
        writer.close()


def test_error_in_the_loop_is_not_hidden_by_one_in_the_thread(tmp_path, caplog):
    with pytest.raises(ZeroDivisionError), CheckpointWriter(CheckpointFolder(tmp_path, keep=2)) as writer:
        writer.save(checkpoint_of(1, output=tmp_path))
        1 / 0  # noqa: B018
    assert "cannot be read back" in caplog.text


# ---- the copy


def test_host_copy_shares_no_memory_and_keeps_types(tmp_path):
    big = torch.arange(1_000_000.0)
    norm = nn.BatchNorm2d(3)
    original = {
        "view": big[10:20],
        "expanded": torch.zeros(1).expand(50),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": norm.weight,
        "nested": [{"a": (torch.ones(2), 1, None, "text")}, OrderedDict(b=torch.zeros(2, dtype=torch.bfloat16))],
        "state": norm.state_dict(),
        "milestones": Counter({3: 1}),
        "random": random.getstate(),
        "set": {1, 2},
    }
    copied = host_copy(original)
    torch.save(copied, tmp_path / "copied.pt")
    assert (tmp_path / "copied.pt").stat().st_size < 50_000  # only the view, not its 4 MB of storage
    expected = json.dumps(original, default=lambda value: value.tolist() if hasattr(value, "tolist") else list(value))
    big.zero_()
    original["channels last"].zero_()
    original["nested"][0]["a"][0].zero_()
    original["nested"].append(1)
    original["state"]["running_var"].zero_()
    norm.weight.data.zero_()
    original["milestones"][3] = 5
    original["set"].add(3)
    assert (
        json.dumps(copied, default=lambda value: value.tolist() if hasattr(value, "tolist") else list(value))
        == expected
    )
    assert copied["channels last"].is_contiguous(memory_format=torch.channels_last)
    assert copied["expanded"].untyped_storage().nbytes() == 50 * 4
    assert not copied["parameter"].requires_grad
    assert isinstance(copied["nested"][1], OrderedDict) and isinstance(copied["milestones"], Counter)
    assert copied["state"]._metadata == norm.state_dict()._metadata


def test_resuming_from_a_written_state_continues_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    model.to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    schedule = LambdaLR(optimizer, lambda step: 1 / (step + 1))
    scaler = torch.amp.GradScaler("cpu")
    averaged = {name: value.clone() for name, value in model.state_dict().items()}

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            scaler.scale(model(torch.randn(2, 3, 8, 8)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            floats = [name for name, value in averaged.items() if value.is_floating_point()]
            torch._foreach_lerp_([averaged[n] for n in floats], [model.state_dict()[n] for n in floats], 0.1)

    def state() -> dict:
        return {
            "model": model.state_dict(),
            "ema": averaged,
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "scaler": scaler.state_dict(),
            "rng": {"torch": torch.get_rng_state(), "python": random.getstate()},
            "best": float("nan"),
        }

    train(3)
    with CheckpointWriter(CheckpointFolder(tmp_path, keep=2)) as writer:
        writer.save(checkpoint_of(3, **state()))
        train(3)  # while the checkpoint is being written
        straight = host_copy(state())
    read = read_checkpoint(tmp_path / "last.pt")
    model.load_state_dict(read.state["model"])
    optimizer.load_state_dict(read.state["optimizer"])
    schedule.load_state_dict(read.state["schedule"])
    scaler.load_state_dict(read.state["scaler"])
    averaged = read.state["ema"]
    torch.set_rng_state(read.state["rng"]["torch"])
    random.setstate(read.state["rng"]["python"])
    train(3)
    resumed = host_copy(state())
    as_bytes = [tmp_path / "straight", tmp_path / "resumed"]
    for value, path in zip((straight, resumed), as_bytes, strict=True):
        path.write_text(json.dumps(value, default=torch.Tensor.tolist))  # floats with full precision
    assert as_bytes[0].read_text() == as_bytes[1].read_text()
    assert straight["optimizer"]["state"][0]["momentum_buffer"].abs().sum() > 0
    assert read._replace(state={}) == checkpoint_of(3)
