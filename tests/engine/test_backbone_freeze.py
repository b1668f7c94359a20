"""A backbone that is frozen in the first steps of a run."""

import pytest
import torch

from retinanet.checkpoint.file import read_checkpoint
from retinanet.config import AdamWConfig, SGDConfig
from retinanet.config.load import load_config
from retinanet.engine.backbone_freeze import BackboneFreeze
from retinanet.engine.nonfinite.guard import NonFiniteGuard
from retinanet.engine.train import train
from tests.helpers.metrics import read_metrics
from tests.helpers.processes import run_together
from tests.helpers.states import assert_same_state
from tests.helpers.steps import batch_of, model_of, step_of

FROZEN = 2  # steps


def frozen_step(model, **settings):
    """A training step that freezes the backbone for two steps and skips steps with non-finite gradients."""
    step = step_of(model, **settings)
    step.guard = NonFiniteGuard(model, step.optimizer, torch.device("cpu"), action="skip", limit=9)
    step.freeze = BackboneFreeze(model.backbone, FROZEN)
    return step


def copy_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, module):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


# A large weight decay would move a parameter even without a gradient.
@pytest.mark.parametrize(
    "optimizer", [SGDConfig(weight_decay=0.5, norm_weight_decay=0.5), AdamWConfig(weight_decay=0.5)]
)
@pytest.mark.parametrize("scaled", [False, True])
def test_frozen_backbone_does_not_change_and_is_trained_afterwards(optimizer, scaled):
    model = model_of(norm="batch")
    step = frozen_step(model, optimizer=optimizer, scaled=scaled)
    backbone, head = copy_of(model.backbone), copy_of(model.head)
    for number in range(1, FROZEN + 1):
        step([batch_of()], number)
        assert changed(backbone, model.backbone) == set()  # weights, running statistics and counters
        assert not any(module.training for module in model.backbone.modules()) and model.head.training
    assert "class_subnet.0.weight" in changed(head, model.head)
    step([batch_of()], FROZEN + 1)
    counters = {"bn1.num_batches_tracked", "bn1.running_mean", "conv1.weight", "layer4.0.bn2.weight"}
    assert counters < changed(backbone, model.backbone)
    assert model.backbone.training and model.backbone.bn1.num_batches_tracked == 1


def test_frozen_stages_stay_frozen_afterwards():
    model = model_of(name="resnet18", norm="batch", frozen_stages=2, weights="imagenet")
    trained = [parameter.requires_grad for parameter in model.parameters()]
    step, before = frozen_step(model), copy_of(model.backbone)
    for number in range(1, FROZEN + 2):
        step([batch_of()], number)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    names = changed(before, model.backbone)
    assert names and not any(name.startswith(("conv1", "bn1", "layer1")) for name in names)
    assert not model.backbone.layer1.training and model.backbone.layer2.training


def test_evaluation_in_between_leaves_the_norms_frozen():
    """Code that evaluates a model calls `model.train()` when it is done."""
    model = model_of(norm="batch")
    step = frozen_step(model)
    step([batch_of()], 1)
    before = copy_of(model.backbone)
    model.eval()
    model.train()
    step([batch_of()], 2)
    assert changed(before, model.backbone) == set()


def test_first_step_after_the_freeze_has_no_momentum_from_before():
    """It equals the first step of an optimizer without momentum for the backbone."""
    results = []
    for momentum in (0.9, 0.0):
        model = model_of(norm="frozen")
        step = frozen_step(model, optimizer=SGDConfig(momentum=momentum), clip_norm=None)
        step.freeze.num_steps = 1
        step([batch_of()], 1)
        step([batch_of()], 2)
        results.append(copy_of(model.backbone))
    assert_same_state(*results)


def test_gradient_norm_of_a_frozen_step_excludes_the_backbone():
    """It equals the norm of the same gradients of the other parts, computed without a freeze."""
    frozen, whole = model_of(norm="frozen"), model_of(norm="frozen")
    norm = frozen_step(frozen)([batch_of()], 1).grad_norm
    step = step_of(whole)
    step.backward([batch_of()])
    rest = [p.grad for part in (whole.fpn, whole.head) for p in part.parameters()]
    torch.testing.assert_close(norm, torch.nn.utils.get_total_norm(rest))
    assert norm < torch.nn.utils.get_total_norm([p.grad for p in whole.parameters()])


def test_nonfinite_gradient_in_a_frozen_step_is_skipped():
    model = model_of(norm="batch")
    step = frozen_step(model)
    step([batch_of()], 1)
    before = copy_of(model)
    broken = model.head.class_subnet[-1].bias
    saved = broken.detach().clone()
    broken.data.fill_(float("nan"))
    step([batch_of()], 2)
    broken.data.copy_(saved)
    assert changed(before, model) == set()
    assert step.guard.read().step == 2


def test_switching_reads_nothing_from_the_device(host_reads):
    model = model_of(norm="batch")
    step, batch = frozen_step(model), batch_of()
    with host_reads() as reads:
        for number in range(1, FROZEN + 2):
            step([batch], number)
    assert reads == []


@pytest.fixture
def overrides(tiny_overrides):
    return [
        *tiny_overrides,
        "train.steps=6",
        "train.freeze_backbone_steps=3",
        "data.val=[]",
        "train.save_every=6",
        "train.deterministic=true",
        "train.warmup_steps=0",
        "train.ema_decay=0.9",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("restore_process_settings")
@pytest.mark.parametrize("optimizer", ["{type: sgd, lr: 0.001}", "{type: adamw, lr: 1e-3, backbone_lr: 1e-4}"])
def test_run_resumed_around_the_end_of_the_freeze_is_exact(overrides, optimizer, tmp_path):
    settings = [*overrides, f"train.optimizer={optimizer}", "train.log_every=1"]
    whole = train(load_config("quickstart", settings), tmp_path / "whole").folder
    expected = read_checkpoint(whole / "checkpoints/last.pt").state
    for stop in (2, 3, 4):
        folder = tmp_path / str(stop)
        # The time limit applies at log lines.
        first = train(load_config("quickstart", [*settings, f"train.log_every={stop}", "train.max_hours=1e-9"]), folder)
        assert first.step == stop
        train(load_config("quickstart", settings), folder, resume=True)
        state = read_checkpoint(folder / "checkpoints/last.pt").state
        for part in ("model", "ema", "optimizer", "schedule", "guard", "rng_state"):
            assert_same_state(state[part], expected[part])
    logged = [line["backbone_lr"] for line in read_metrics(whole) if line["kind"] == "train"]
    assert logged[:3] == [0.0] * 3 and all(rate > 0 for rate in logged[3:])
    assert "(backbone 0)" in (whole / "log.txt").read_text()


TRAIN = """
    import sys
    from retinanet.config.load import load_config
    from retinanet.engine.train import train
    folder, resume, *overrides = sys.argv[1:]
    train(load_config("quickstart", overrides), folder, resume=resume == "resume")
"""


@pytest.mark.slow
@pytest.mark.usefixtures("restore_process_settings")
def test_two_processes_train_like_one_and_resume_exactly(overrides, tmp_path):
    settings = [
        *overrides, "train.batch_size=4", "train.optimizer={type: sgd, lr: 0.001}", "model.backbone.norm=frozen",
    ]  # fmt: skip
    alone = train(load_config("quickstart", settings), tmp_path / "alone").folder
    run_together(2, TRAIN, [str(tmp_path / "two"), "start", *settings])
    stopped = [*settings, "train.log_every=3", "train.max_hours=1e-9"]
    run_together(2, TRAIN, [str(tmp_path / "parts"), "start", *stopped])
    run_together(2, TRAIN, [str(tmp_path / "parts"), "resume", *settings])
    one, two, parts = (
        read_checkpoint(folder / "checkpoints/last.pt").state
        for folder in (alone, tmp_path / "two", tmp_path / "parts")
    )
    assert_same_state(two["model"], parts["model"])
    assert_same_state(two["optimizer"], parts["optimizer"])
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=0, atol=1e-5)
