import pytest

from retinanet.config import AdamWConfig, CosineSchedule, SGDConfig, StepsSchedule, TrainConfig
from retinanet.engine.schedule import effective_lr, lr_factor


@pytest.mark.parametrize(
    ("batch_size", "rule", "expected"),
    [(16, "linear", 0.01), (8, "linear", 0.005), (64, "sqrt", 0.02), (4, "sqrt", 0.005)],
)
def test_learning_rate_is_scaled_from_the_reference_batch_size(batch_size, rule, expected):
    cfg = TrainConfig(steps=1, batch_size=batch_size, lr_scaling=rule, optimizer=SGDConfig(lr=0.01))
    assert effective_lr(cfg) == pytest.approx(expected)


def test_learning_rate_is_not_scaled_without_a_reference_batch_size():
    cfg = TrainConfig(steps=1, batch_size=3, reference_batch_size=None, optimizer=AdamWConfig(lr=3e-4))
    assert effective_lr(cfg) == 3e-4


def test_steps_schedule_of_the_paper():
    cfg = TrainConfig(steps=90_000, warmup_steps=1000, warmup_factor=0.001, schedule=StepsSchedule())
    factors = {step: lr_factor(cfg, step, 90_000) for step in (0, 500, 1000, 59_999, 60_000, 79_999, 80_000, 89_999)}
    assert factors[0] == pytest.approx(0.001)
    assert factors[500] == pytest.approx(0.001 + 0.999 / 2)
    assert factors[1000] == factors[59_999] == 1
    assert factors[60_000] == factors[79_999] == pytest.approx(0.1)
    assert factors[80_000] == factors[89_999] == pytest.approx(0.01)


def test_cosine_schedule_is_halfway_after_half_of_the_steps():
    cfg = TrainConfig(steps=100, warmup_steps=0, schedule=CosineSchedule(end=0.2))
    assert lr_factor(cfg, 0, 100) == pytest.approx(1)
    assert lr_factor(cfg, 50, 100) == pytest.approx(0.6)
    assert lr_factor(cfg, 100, 100) == pytest.approx(0.2)
