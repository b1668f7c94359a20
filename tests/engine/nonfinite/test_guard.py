"""Steps with a non-finite gradient change nothing: all tensors of a run are compared bit for bit."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.utils import clip_grad_norm_

from retinanet.config import AdamWConfig, LossConfig, SGDConfig, TrainConfig
from retinanet.detection.assignment import assign
from retinanet.engine import ema
from retinanet.engine.ema import EMA
from retinanet.engine.nonfinite.guard import (
    MOST_OVERFLOWS,
    BadStep,
    NonFiniteGradient,
    NonFiniteGuard,
    moving_statistics,
)
from retinanet.engine.optimizer import build_optimizer
from retinanet.errors import InputError
from retinanet.losses.build import build_loss
from retinanet.model.retinanet import build_model
from retinanet.structures import HeadOutputs, Targets
from tests.helpers.models import model_config

CPU = torch.device("cpu")
SIZE = 64
OPTIMIZERS = pytest.mark.parametrize("optimizer", [SGDConfig(lr=0.01), AdamWConfig(lr=1e-3)], ids=["sgd", "adamw"])


def small_detector(norm):
    torch.manual_seed(0)
    cfg = model_config(norm=norm, channels=64, head_convs=1)
    return build_model(cfg, 3).train()


class Run:
    """A small detector with its optimizer, guard and EMA, and a step that uses them in the order of training."""

    def __init__(self, norm="batch", optimizer=None, *, action="skip", limit=9, scaler=None):
        self.model = small_detector(norm)
        train = TrainConfig(steps=9, optimizer=optimizer or SGDConfig(lr=0.01), reference_batch_size=None)
        self.optimizer = build_optimizer(self.model, train)
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.guard = NonFiniteGuard(
            self.model, self.optimizer, CPU, action=action, limit=limit, scaled=self.scaler.is_enabled()
        )
        self.ema = EMA(self.model, 0.999)
        self.criterion = build_loss(LossConfig())
        boxes = torch.tensor([[[5.0, 5.0, 40.0, 50.0], [30.0, 10.0, 60.0, 60.0]]] * 2)
        everywhere = torch.ones(2, 2, dtype=torch.bool)
        self.targets = Targets(boxes, torch.tensor([[0, 2]] * 2), everywhere, ~everywhere, has_crowd=False)

    def step(self, number, pixels, *, gradient_only=False):
        """Take a step. NaN pixels make statistics and gradients NaN; `gradient_only` makes only the gradients NaN."""
        self.guard.before_step()
        predictions = HeadOutputs(*self.model.outputs(pixels), self.model.anchors(SIZE, SIZE))
        assignment = assign(predictions.anchors, self.targets)
        loss = self.criterion(predictions, assignment, self.targets, torch.tensor(9.0)).total
        self.scaler.scale(loss * float("nan") if gradient_only else loss).backward()
        self.scaler.unscale_(self.optimizer)
        skipped = self.guard.mask(clip_grad_norm_(self.model.parameters(), 10.0), number)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(skipped)

    def bits(self):
        """Every tensor of the run, by name, as bytes."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema/{name}": value for name, value in self.ema.state_dict()["model"].items()}
        tensors["ema/updates"] = self.ema.state_dict()["updates"]
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in values.items()}
        return {name: value.contiguous().numpy().tobytes() for name, value in tensors.items()}


def pixels_of(seed, *, bad=False):
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    if bad:
        pixels[1, 0, 5, 5] = float("nan")
    return pixels


def test_bad_step_without_a_guard_changes_model_ema_and_optimizer():
    """Without the guard, a bad step causes the changes that the other tests rule out."""
    run = Run()
    before = run.bits()
    run.guard.mask = lambda grad_norm, step: torch.zeros(())
    run.step(1, pixels_of(1, bad=True))
    changed = {name for name, value in run.bits().items() if value != before[name]}
    assert {"model/backbone.bn1.running_mean", "model/backbone.bn1.num_batches_tracked"} <= changed
    assert {"model/head.box_subnet.0.weight", "ema/head.box_subnet.0.weight", "optimizer/0/momentum_buffer"} <= changed


@OPTIMIZERS
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("before", [0, 2], ids=["first step", "third step"])
@pytest.mark.parametrize("gradient_only", [False, True])
def test_bad_step_leaves_every_bit_unchanged(optimizer, norm, before, gradient_only):
    run = Run(norm, optimizer)
    for number in range(before):
        run.step(number, pixels_of(number))
    bits = run.bits()
    run.step(before, pixels_of(7, bad=not gradient_only), gradient_only=gradient_only)
    after = run.bits()
    assert all(after[name] == bits[name] for name in bits)
    # AdamW creates its state in its first step, even if that step is skipped; the state is still zero.
    assert not any(any(value) for name, value in after.items() if name not in bits)
    assert run.guard.read() == BadStep(step=before, count=1)
    assert run.guard.read() is None


@OPTIMIZERS
@pytest.mark.parametrize("bad_first", [True, False])
def test_run_with_a_skipped_step_equals_a_run_without_it(optimizer, bad_first):
    skipping, without = Run(optimizer=optimizer), Run(optimizer=optimizer)
    order = [None, 0, 1, 2] if bad_first else [0, 1, None, 2]
    for number, seed in enumerate(order):
        skipping.step(number, pixels_of(9, bad=True) if seed is None else pixels_of(seed))
    for seed in range(3):
        without.step(seed, pixels_of(seed))
    assert skipping.bits() == without.bits()
    assert skipping.guard.skipped == 0  # updated only when the guard is read
    assert skipping.guard.read() == BadStep(step=order.index(None), count=1)
    assert skipping.guard.skipped == 1


@OPTIMIZERS
@pytest.mark.parametrize("before", [0, 1])
def test_stop_keeps_the_state_from_before_the_bad_step(optimizer, before):
    run = Run(optimizer=optimizer, action="stop")
    for number in range(before):
        run.step(number, pixels_of(number))
    bits = run.bits()
    run.step(before, pixels_of(7, bad=True))
    for number in (before + 1, before + 2):
        run.step(number, pixels_of(number))  # finite, but skipped as well
    after = run.bits()
    assert all(after[name] == bits[name] for name in bits)
    assert run.guard.read() == BadStep(step=before, count=3)
    run.step(before + 3, pixels_of(3))
    assert run.guard.read() is None
    assert run.bits() != after


def test_guard_does_not_change_a_run_of_finite_steps():
    guarded, unguarded = Run(), Run()
    unguarded.guard.before_step = lambda: None
    unguarded.guard.mask = lambda grad_norm, step: torch.zeros(())
    for run in (guarded, unguarded):
        for number in range(2):
            run.step(number, pixels_of(number))
    assert guarded.bits() == unguarded.bits()
    assert guarded.guard.read() is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_mask_is_zero_or_one_for_any_norm(value):
    """The fused optimizers treat a NaN in `found_inf` as 0."""
    run = Run()
    flags = [run.guard.mask(torch.tensor(norm), step).clone() for step, norm in enumerate([1.0, value, 2.0])]
    assert [flag.dtype for flag in flags] == [torch.float32] * 3
    assert torch.stack(flags).tolist() == [0.0, 1.0, 0.0]
    assert run.optimizer.found_inf.item() == 0.0


def test_read_reports_the_first_bad_step_since_the_last_read():
    guard = Run(limit=3).guard
    for step, norm in enumerate([1.0, float("nan"), 1.0, float("inf"), 1.0], start=100):
        guard.mask(torch.tensor(norm), step)
    assert guard.read() == BadStep(step=101, count=2)
    guard.mask(torch.tensor(float("nan")), 105)
    assert guard.read() == BadStep(step=105, count=1)
    assert guard.skipped == 3
    guard.mask(torch.tensor(float("nan")), 106)
    message = r"step 106: .* skipped 4 step\(s\), more than train.max_skipped \(3\); lower"
    with pytest.raises(NonFiniteGradient, match=message) as error:
        guard.read()
    assert isinstance(error.value, InputError) and error.value.bad_step == BadStep(106, 1)


def test_count_of_skipped_steps_survives_a_resume():
    guard = Run(limit=2).guard
    for step in range(2):
        guard.mask(torch.tensor(float("nan")), step)
    guard.read()
    resumed = Run(limit=2).guard
    resumed.load_state_dict(guard.state_dict())
    resumed.mask(torch.tensor(float("nan")), 2)
    with pytest.raises(NonFiniteGradient):
        resumed.read()


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_overflow_in_float16_is_handled_by_the_scaler(action):
    run = Run(action=action, limit=0, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
    run.step(0, pixels_of(0))
    before = run.bits()
    run.scaler.update(2.0**127)  # every gradient scaled by this overflows
    run.step(1, pixels_of(1))
    assert run.bits() == before  # the whole step is skipped: even the finite statistics are restored
    assert run.scaler.get_scale() == 2.0**126
    assert run.guard.read() is None
    run.scaler.update(2.0**10)
    run.step(2, pixels_of(2))  # later steps are not skipped, even with "stop"
    assert run.bits() != before
    assert not hasattr(run.optimizer, "found_inf")


def test_persistent_overflow_is_an_error_even_in_float16():
    guard = Run(scaler=torch.amp.GradScaler("cpu")).guard
    for step in range(MOST_OVERFLOWS):
        guard.mask(torch.tensor(float("inf")), step)
    assert guard.read() is None
    guard.mask(torch.tensor(float("inf")), MOST_OVERFLOWS)
    with pytest.raises(NonFiniteGradient, match=f"last {MOST_OVERFLOWS + 1} steps all had"):
        guard.read()
    guard.mask(torch.tensor(1.0), MOST_OVERFLOWS + 1)
    assert guard.read() is None


def test_overflows_between_finite_steps_are_not_persistent():
    guard = Run(scaler=torch.amp.GradScaler("cpu")).guard
    for step in range(2 * (MOST_OVERFLOWS + 1)):
        guard.mask(torch.tensor(float("inf") if step % 2 else 1.0), step)
    assert guard.read() is None


@OPTIMIZERS
@pytest.mark.parametrize("action", ["stop", "skip"])
def test_guarded_step_never_waits_for_the_device(optimizer, action, host_reads):
    run = Run(optimizer=optimizer, action=action)
    run.step(0, pixels_of(0))
    with host_reads() as reads:
        run.step(1, pixels_of(1, bad=True))
        run.step(2, pixels_of(2))
    assert reads == []


@OPTIMIZERS
@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_guarded_steps_run_on_fake_tensors(optimizer, norm, monkeypatch):
    with FakeTensorMode():
        monkeypatch.setattr(ema, "deepcopy", lambda model: small_detector(norm))  # fake tensors cannot be deep-copied
        run = Run(norm, optimizer)
        for number in range(2):
            run.step(number, torch.empty(2, 3, SIZE, SIZE))
        with pytest.raises(DataDependentOutputException):
            run.guard.read()


def test_masking_stays_on_a_cuda_device(monkeypatch):
    def small():
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))

    monkeypatch.setattr(ema, "deepcopy", lambda model: small())
    with FakeTensorMode(), torch.device("cuda"):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
        guard = NonFiniteGuard(model, optimizer, torch.device("cuda"), action="stop", limit=0)
        average = EMA(model, 0.9)
        guard.before_step()
        skipped = guard.mask(torch.ones(()), 1)
        average.update(skipped)
        assert skipped.device.type == optimizer.found_inf.device.type == "cuda"


def test_only_batch_norms_have_running_statistics():
    assert moving_statistics(Run("frozen").model) == moving_statistics(Run("group").model) == []
    floats, counters = moving_statistics(Run("batch").model)
    assert len(floats) == 24 and len(counters) == 12  # two statistics and one counter for each norm
