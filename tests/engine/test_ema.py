import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from retinanet.engine.ema import EMA
from retinanet.model.retinanet import build_model
from tests.helpers.models import model_config

TAKEN, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)


def small_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    model[0].requires_grad_(False)
    return model.train()


def train(model, ema, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        ema.update(TAKEN)


def test_warm_up_by_hand():
    # decay is 1 / 10, then 2 / 11: 0 -> 0.9 * 10 = 9 -> 9 + 9 / 11 * (20 - 9) = 18; then 3 / 12 but at most 0.2:
    # 18 + 0.8 * (28 - 18) = 26
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = EMA(model, 0.2)
    for weight, expected in [(10.0, 9.0), (20.0, 18.0), (28.0, 26.0)]:
        nn.init.constant_(model.weight, weight)
        ema.update(TAKEN)
        assert ema.model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_average_equals_a_loop_in_float64():
    model = small_model()
    ema = EMA(model, 0.6)
    expected = {name: value.double() for name, value in model.named_parameters()}
    for count in range(12):
        train(model, ema, 1, seed=count)
        decay = min(0.6, (1 + count) / (10 + count))
        for name, value in model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach().double()
    for name, value in ema.model.named_parameters():
        assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(value, dict(model.named_parameters())[name]) == name.startswith("0.")  # the frozen layer


def test_running_statistics_are_copied():
    model = small_model()
    ema = EMA(model, 0.9)
    train(model, ema, 3)
    assert model[1].num_batches_tracked == 3
    for average, value in zip(ema.model.buffers(), model.buffers(), strict=True):
        assert torch.equal(average, value)


def test_skipped_step_changes_nothing():
    model, reference = small_model(), small_model()
    with_gap, without = EMA(model, 0.9), EMA(reference, 0.9)
    with_gap.update(SKIPPED)
    train(model, with_gap, 2)
    before = copy.deepcopy(with_gap.state_dict())
    with_gap.update(SKIPPED)
    assert_close(with_gap.state_dict(), before, rtol=0, atol=0)
    train(reference, without, 2)
    assert_close(with_gap.state_dict(), without.state_dict(), rtol=0, atol=0)


def test_resume_is_exact(tmp_path):
    model = small_model()
    ema = EMA(model, 0.9998)
    train(model, ema, 3)
    torch.save({"model": model.state_dict(), "ema": ema.state_dict()}, tmp_path / "state.pt")
    train(model, ema, 3, seed=2)

    content = torch.load(tmp_path / "state.pt", weights_only=True)
    other = small_model()
    resumed = EMA(other, 0.9998)
    other.load_state_dict(content["model"])
    resumed.load_state_dict(content["ema"])
    train(other, resumed, 3, seed=2)
    assert_close(resumed.state_dict(), ema.state_dict(), rtol=0, atol=0)
    assert ema.state_dict()["updates"] == 6


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_averaged_detector_is_independent_and_usable(layout):
    torch.manual_seed(0)
    cfg = model_config(norm="batch", channels=64, head_convs=1)
    model = build_model(cfg, 3).to(memory_format=layout).train()
    ema = EMA(model, 0.9998)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    ema.update(TAKEN)
    assert ema.model.memory_format == layout
    assert not ema.model.training and not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert list(ema.state_dict()["model"]) == list(model.state_dict())  # the same names as in the model

    same = build_model(cfg, 3).eval()
    same.load_state_dict(ema.state_dict()["model"])
    images = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    sizes = torch.tensor([[64, 96]])
    with torch.no_grad():
        one, other, plain = (network(images, sizes) for network in (ema.model, same, copy.deepcopy(model).eval()))
    assert_close(one.class_logits, other.class_logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(one.class_logits[0], plain.class_logits[0])


def test_update_does_not_wait_for_the_device(host_reads):
    model = small_model()
    ema = EMA(model, 0.9)
    with host_reads() as reads:
        ema.update(TAKEN)
        ema.update(SKIPPED)
    assert reads == []
