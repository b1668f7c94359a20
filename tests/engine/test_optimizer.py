import math

import pytest
import torch
from torch import nn

from retinanet.config import AdamWConfig, SGDConfig, StepsSchedule, TrainConfig
from retinanet.engine.optimizer import build_optimizer, restore_optimizer, weight_decay_groups
from retinanet.engine.schedule import build_schedule
from retinanet.model.retinanet import build_model
from tests.helpers.models import model_config


def small_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_norms_and_biases_are_in_a_separate_group():
    weights, norms_and_biases = weight_decay_groups(small_model())
    assert [tuple(p.shape) for p in weights] == [(4, 3, 3, 3), (2, 4, 1, 1)]
    assert [tuple(p.shape) for p in norms_and_biases] == [(4,), (4,), (4,), (2,)]


def test_group_of_a_weight_depends_on_its_module_not_on_its_shape():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, 3, 1, 1))
            self.linear = nn.Linear(3, 2)
            self.norm = nn.LayerNorm((2, 4))

    model = Scaled()
    weights, others = weight_decay_groups(model)
    assert [id(p) for p in weights] == [id(model.linear.weight)]
    assert [id(p) for p in others] == [
        id(p) for p in (model.scale, model.linear.bias, model.norm.weight, model.norm.bias)
    ]


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync", "group"])
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "resnet18", "head_norm": "group", "class_activation": "softmax"},
        {"name": "resnet50", "frozen_stages": 2, "weights": "imagenet"},
    ],
)
def test_all_convolution_weights_of_a_detector_decay_in_order(norm, settings):
    """In these networks, the convolution weights are exactly the parameters with more than one dimension."""
    with torch.device("meta"):
        model = build_model(model_config(norm=norm, **settings), 5)
    trained = [p for p in model.parameters() if p.requires_grad]
    weights, others = weight_decay_groups(model)
    assert [id(p) for p in weights] == [id(p) for p in trained if p.ndim > 1]
    assert [id(p) for p in others] == [id(p) for p in trained if p.ndim <= 1]


def test_frozen_parameters_are_in_no_group():
    model = small_model()
    model[0].requires_grad_(False)
    groups = build_optimizer(model, TrainConfig(steps=1)).param_groups
    assert [len(group["params"]) for group in groups] == [1, 3]


def test_sgd_step_by_hand():
    # w = 1, gradient 0.5, decay 0.1: v = 0.5 + 0.1 * 1 = 0.6, w = 1 - 0.1 * 0.6. The bias has no decay: 1 - 0.1 * 0.5.
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    settings = SGDConfig(lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer = build_optimizer(model, TrainConfig(steps=1, batch_size=16, optimizer=settings))
    (0.5 * model(torch.ones(1, 1))).sum().backward()
    optimizer.step()
    assert model.weight.item() == pytest.approx(0.94)
    assert model.bias.item() == pytest.approx(0.95)


def weights_after(settings: SGDConfig | AdamWConfig, gradients: list[float]) -> list[float]:
    """A single weight, initially 1, after a step on each gradient."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.ones_(weight.weight)
    optimizer = build_optimizer(weight, TrainConfig(steps=1, optimizer=settings, reference_batch_size=None))
    values = []
    for gradient in gradients:
        weight.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        values.append(weight.weight.item())
    return values


def test_sgd_uses_its_momentum():
    # v = 0.5, w = 1 - 0.1 * 0.5; then v = 0.5 * 0.5 + 0.5 = 0.75, w = 0.95 - 0.1 * 0.75.
    settings = SGDConfig(lr=0.1, momentum=0.5, weight_decay=0.0)
    assert weights_after(settings, [0.5, 0.5]) == pytest.approx([0.95, 0.875])


def test_adamw_uses_both_betas():
    # The size of the first step is the learning rate, whatever the betas. Then m = 0.5 * 0.5 + 0.5 * 3 = 1.75 and
    # v = 0.75 * 0.25 + 0.25 * 9 = 2.4375; corrected 1.75 / (1 - 0.25) = 7 / 3 and 2.4375 / (1 - 0.5625) = 39 / 7.
    settings = AdamWConfig(lr=0.1, betas=(0.5, 0.75), weight_decay=0.0)
    second = 0.9 - 0.1 * (7 / 3) / math.sqrt(39 / 7)
    assert weights_after(settings, [1.0, 3.0]) == pytest.approx([0.9, second])


def test_parameter_without_a_gradient_in_the_first_step_is_updated_later():
    model = small_model()
    optimizer = build_optimizer(model, TrainConfig(steps=1))
    model[0](torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    model(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert all(math.isfinite(p.sum().item()) for p in model.parameters())


@pytest.mark.parametrize("settings", [SGDConfig(), AdamWConfig()])
@pytest.mark.parametrize(
    "saved, restored",
    [
        (torch.channels_last, torch.contiguous_format),
        (torch.contiguous_format, torch.channels_last),
    ],
)
def test_restored_momentum_takes_the_memory_format_of_its_parameter(settings, saved, restored, tmp_path):
    """The formats differ if a run is resumed on another device. The fused kernels ignore strides.

    The test uses float64: in float32, the two layouts round differently, and these steps amplify the difference.
    """
    torch.manual_seed(0)
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64)

    def run(model, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()

    cfg = TrainConfig(epochs=1, optimizer=settings, reference_batch_size=None)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).double().to(memory_format=saved)
    optimizer = build_optimizer(first, cfg)
    run(first, optimizer)
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    content = torch.load(tmp_path / "state.pt", weights_only=True)

    second = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).double().to(memory_format=restored)
    second.load_state_dict(content["model"])
    resumed = build_optimizer(second, cfg)
    restore_optimizer(resumed, content["optimizer"])
    run(first, optimizer)
    run(second, resumed)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def lrs_of(model, settings, **train):
    """Learning rate of each trainable parameter by name, and the number of parameter groups."""
    cfg = TrainConfig(steps=10, optimizer=settings, **{"reference_batch_size": None} | train)
    groups = build_optimizer(model, cfg, model.backbone.stages()).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    return found, len(groups)


@pytest.mark.parametrize("kind", [SGDConfig, AdamWConfig])
def test_learning_rates_by_stage(kind):
    # lr 0.8 for a batch of 16, so 0.4 for 8. The last stage has 0.2 / 2 = 0.1, and each earlier one half of the next.
    model = build_model(model_config(norm="batch"), 2)
    settings = kind(lr=0.8, backbone_lr=0.2, layer_decay=0.5)
    lrs, num_groups = lrs_of(model, settings, batch_size=8, reference_batch_size=16)
    expected = {"conv1": 0.00625, "bn1": 0.00625, "layer1": 0.0125, "layer2": 0.025, "layer3": 0.05, "layer4": 0.1}
    for name, lr in lrs.items():
        part, stage = name.split(".")[:2]
        assert lr == pytest.approx(expected[stage] if part == "backbone" else 0.4), name
    assert num_groups == 2 * (1 + 5)


def test_frozen_stages_have_no_group():
    model = build_model(model_config(name="resnet18", frozen_stages=3, weights="imagenet"), 2)
    lrs, num_groups = lrs_of(model, SGDConfig(lr=0.4, layer_decay=0.5))
    assert num_groups == 2 * (1 + 2)
    assert {lrs[f"backbone.layer{number}.0.conv1.weight"] for number in (3, 4)} == {0.2, 0.4}


def test_equal_learning_rates_leave_the_groups_as_they_are():
    """The optimizer is then the same as without these settings, so its state also fits earlier checkpoints."""
    model = build_model(model_config(norm="batch"), 2)
    plain = build_optimizer(model, TrainConfig(steps=1, optimizer=SGDConfig(lr=0.01)))
    same = build_optimizer(
        model, TrainConfig(steps=1, optimizer=SGDConfig(lr=0.01, backbone_lr=0.01)), model.backbone.stages()
    )
    assert [list(map(id, group.pop("params"))) for group in plain.param_groups] == [
        list(map(id, group.pop("params"))) for group in same.param_groups
    ]
    assert plain.param_groups == same.param_groups


def test_schedule_multiplies_the_learning_rates_of_all_stages():
    # Warm-up from 0.5 over two steps, then a tenth from step 5 of 10; the last stage has 0.2, the one before it 0.1.
    model = build_model(model_config(), 2)
    cfg = TrainConfig(
        steps=10, optimizer=SGDConfig(lr=0.4, backbone_lr=0.2, layer_decay=0.5), reference_batch_size=None,
        warmup_steps=2, warmup_factor=0.5, schedule=StepsSchedule(milestones=(0.5,)),
    )  # fmt: skip
    optimizer = build_optimizer(model, cfg, model.backbone.stages())
    schedule, found = build_schedule(optimizer, cfg, 10), []
    for _ in range(6):
        found.append(schedule.get_last_lr()[::2][-2:] + schedule.get_last_lr()[:1])
        optimizer.step()
        schedule.step()
    factors = [0.5, 0.75, 1, 1, 1, 0.1]
    for lrs, factor in zip(found, factors, strict=True):
        assert lrs == pytest.approx([0.1 * factor, 0.2 * factor, 0.4 * factor])
