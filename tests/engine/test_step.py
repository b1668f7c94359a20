"""The training step: its results, and the absence of device synchronisation.

Three checks together replace a test on a GPU. Fake CUDA tensors show that the forward pass, assignment and losses stay
on the device, but the backward pass needs a driver. Fake CPU tensors run through the whole step and raise an error if
a value is read. A counter of device synchronisations observes a real step, and is validated on a reference
implementation.
"""

import pytest
import torch
import torchvision
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from retinanet.config import (
    LossConfig,
    SGDConfig,
    SoftmaxFocalConfig,
    TrainConfig,
)
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.assignment import assign
from retinanet.detection.atss import assign_atss
from retinanet.detection.postprocess import Postprocess
from retinanet.engine.ema import EMA
from retinanet.engine.metrics import RunningMeans, StepMetrics
from retinanet.engine.nonfinite.guard import NonFiniteGuard
from retinanet.losses.build import build_loss
from retinanet.losses.detection import Losses
from retinanet.structures import Batch, HeadOutputs, Targets
from tests.helpers.losses import BOX_LOSSES, CLASS_LOSSES
from tests.helpers.steps import HEIGHT, NUM_CLASSES, WIDTH, batch_of, model_of, step_of

CPU = torch.device("cpu")


class NoTransfers(TorchDispatchMode):
    """Rejects operations that fake tensors allow: copies between devices, and masks as indices.

    Enter it inside the fake mode.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        target = kwargs.get("device")
        if name == "aten::_to_copy" and target is not None and torch.device(target).type != args[0].device.type:
            raise RuntimeError(f"{name}: {args[0].device} to {target}")
        if name == "aten::copy_" and args[0].device.type != args[1].device.type:
            raise RuntimeError(f"{name}: {args[1].device} to {args[0].device}")
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            if any(index is not None and index.dtype == torch.bool for index in args[1]):
                raise RuntimeError(f"{name} with a mask")
        return func(*args, **kwargs)


def fake_batch(batch, device=CPU):
    """The batch with fake tensors, inside a fake mode."""
    images, image_sizes, original_sizes, *targets = (
        torch.empty(x.shape, dtype=x.dtype, device=device) for x in batch.tensors()
    )
    return Batch(images, image_sizes, original_sizes, Targets(*targets, batch.targets.has_crowd), batch.image_indices)


def fake(model, device=CPU):
    """The model with fake weights, inside a fake mode; `Module.to` does not work there."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            empty = torch.empty_strided(weight.shape, weight.stride(), device=device)
            module.register_parameter(name, torch.nn.Parameter(empty))
        for name, values in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device=device))
    model.anchors = AnchorGenerator()
    return model


def test_step_is_gradient_descent_on_the_loss():
    batch, model, by_hand = batch_of(), model_of(), model_of()
    metrics = step_of(model, optimizer=SGDConfig(lr=0.01, momentum=0.0, weight_decay=0.0), clip_norm=None)([batch], 1)

    outputs = by_hand(batch.images, batch.image_sizes)
    assignment = assign(outputs.anchors, batch.targets)
    num_positive = assignment.positive.sum().float()
    losses = build_loss(LossConfig())(outputs, assignment, batch.targets, num_positive)
    losses.total.backward()
    squares = 0.0
    for (name, after), before in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        assert_close(after, before - 0.01 * before.grad, rtol=1e-4, atol=1e-7, msg=name)
        squares += before.grad.double().square().sum()
    assert num_positive > 3 and metrics.num_positive == num_positive
    assert_close(tuple(metrics.losses), tuple(losses))
    assert_close(metrics.grad_norm.double(), squares.sqrt(), rtol=1e-4, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_clipping_limits_the_step():
    batch, model, start = batch_of(), model_of(), model_of()
    settings = SGDConfig(lr=1.0, momentum=0.0, weight_decay=0.0)
    metrics = step_of(model, optimizer=settings, clip_norm=0.01)([batch], 1)
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), start.parameters(), strict=True)])
    assert metrics.grad_norm > 0.1
    assert_close(moved.norm(), torch.tensor(0.01), rtol=1e-3, atol=0)


def test_scaled_gradients_are_clipped_at_their_true_norm():
    """Scaling by a power of two is exact, so a scaled step equals an unscaled one."""
    batch, scaled, plain = batch_of(), model_of(), model_of()
    settings = SGDConfig(lr=1.0, momentum=0.0, weight_decay=0.0)
    first, second = (step_of(model, optimizer=settings, clip_norm=0.01) for model in (scaled, plain))
    first.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert_close(first([batch], 1).grad_norm, second([batch], 1).grad_norm, rtol=1e-6, atol=0)
    assert_close(scaled.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-9)


def test_average_includes_the_weights_after_the_step():
    """The first update keeps a tenth of the initial weights."""
    batch, model, start = batch_of(), model_of(), model_of()
    step = step_of(model, optimizer=SGDConfig(lr=0.1, momentum=0.0))
    step.guard = NonFiniteGuard(model, step.optimizer, CPU, action="stop", limit=1)
    step.ema = EMA(model, 0.9)
    step([batch], 1)
    averages = dict(step.ema.model.named_parameters())
    for (name, weight), before in zip(model.named_parameters(), start.parameters(), strict=True):
        assert_close(averages[name], 0.1 * before + 0.9 * weight, msg=name)
        assert not torch.equal(weight, before), name


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_forward_assignment_and_losses_stay_on_a_cuda_device(norm):
    model, batch, cuda = model_of(norm), batch_of(), torch.device("cuda")
    with FakeTensorMode():
        model, batch = fake(model, cuda), fake_batch(batch, cuda)
        anchors = model.anchors(HEIGHT, WIDTH, batch.images.device)  # generated on the host once per shape, then cached
        with NoTransfers():  # autocast disables itself without a driver
            assignment = assign(anchors, batch.targets)
            num_positive = assignment.positive.sum().float().clamp(min=1)
            outputs = model(batch.images, batch.image_sizes)
            losses = build_loss(LossConfig())(outputs, assignment, batch.targets, num_positive)
            candidates = Postprocess().candidates(outputs, batch.image_sizes)
        assert {x.device.type for x in (*assignment, *losses, *candidates)} == {"cuda"}


@pytest.mark.parametrize(
    "cfg",
    [LossConfig(classification=rule) for rule in (*CLASS_LOSSES, SoftmaxFocalConfig(alpha=(0.1, 0.2, 0.3, 0.4, 0.5)))]
    + [LossConfig(box=rule) for rule in BOX_LOSSES],
)
def test_losses_stay_on_a_cuda_device(cfg):
    batch = batch_of()
    with FakeTensorMode():
        targets = fake_batch(batch, torch.device("cuda")).targets
        anchors = AnchorGenerator()(HEIGHT, WIDTH, targets.boxes.device)
        sizes = [grid[..., 0].numel() for grid in anchors]
        num_logits = NUM_CLASSES + cfg.classification.has_background_logit
        logits, deltas = ([torch.empty(2, size, values, device="cuda") for size in sizes] for values in (num_logits, 4))
        criterion = build_loss(cfg, num_classes=NUM_CLASSES)
        outputs = HeadOutputs(logits, deltas, anchors)
        # Compute the loss once in advance: class weights are copied to the device once per run.
        criterion(outputs, assign(anchors, targets), targets, torch.ones((), device="cuda"))
        with NoTransfers():
            assignment = assign(anchors, targets)
            num_positive = assignment.positive.sum().float().clamp(min=1)
            losses = criterion(outputs, assignment, targets, num_positive)
        assert {x.device.type for x in losses} == {"cuda"}


def test_softmax_and_atss_stay_on_a_cuda_device():
    model, batch, cuda = model_of(class_activation="softmax"), batch_of(), torch.device("cuda")
    criterion = build_loss(LossConfig(classification=SoftmaxFocalConfig()))
    with FakeTensorMode():
        model, batch = fake(model, cuda), fake_batch(batch, cuda)
        anchors = model.anchors(HEIGHT, WIDTH, batch.images.device)
        with NoTransfers():
            assignment = assign_atss(anchors, batch.targets)
            num_positive = assignment.positive.sum().float().clamp(min=1)
            outputs = model(batch.images, batch.image_sizes)
            losses = criterion(outputs, assignment, batch.targets, num_positive)
            candidates = Postprocess(background_logit=True).candidates(outputs, batch.image_sizes)
        assert {x.device.type for x in (*assignment, *losses, *candidates)} == {"cuda"}


def test_clipping_guard_and_means_stay_on_a_cuda_device():
    model, cuda = model_of("batch"), torch.device("cuda")
    with FakeTensorMode():
        model = fake(model, cuda)
        guard = NonFiniteGuard(model, step_of(model).optimizer, cuda, action="stop", limit=1)
        running = RunningMeans(cuda, skips=False)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        loss = torch.zeros((), device=cuda)
        with NoTransfers():
            guard.before_step()
            grad_norm = get_total_norm([parameter.grad for parameter in model.parameters()])
            clip_grads_with_norm_(model.parameters(), 1.0, grad_norm)
            skipped = guard.mask(grad_norm, 1)
            running.add(StepMetrics(Losses(loss, loss), grad_norm, loss))
        assert {skipped.device.type, grad_norm.device.type} == {"cuda"}


def test_fake_device_detects_host_reads_and_copies():
    with FakeTensorMode(), NoTransfers():
        values = torch.rand(4, device="cuda")
        for mistake, error in [
            (lambda: values.sum().item(), DataDependentOutputException),
            (lambda: values.nonzero(), DynamicOutputShapeException),
            (lambda: values[values > 0], Exception),
            (lambda: values.cpu(), RuntimeError),
            (lambda: values + torch.rand(4), Exception),
        ]:
            with pytest.raises(error):
                mistake()


@pytest.mark.parametrize("dtype, scaled", [(torch.float32, False), (torch.bfloat16, False), (torch.float16, True)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_whole_step_runs_without_values(optimizer, dtype, scaled):
    adamw = TrainConfig.model_validate_json('{"epochs": 1, "optimizer": {"type": "adamw"}}').optimizer
    model, batch = model_of(), batch_of()
    with FakeTensorMode():
        model, batch = fake(model), fake_batch(batch)
        step = step_of(model, dtype=dtype, scaled=scaled, optimizer=adamw if optimizer == "adamw" else SGDConfig())
        running = RunningMeans(CPU, skips=scaled)
        for _ in range(2):
            running.add(step([batch], 1))
        with pytest.raises(DataDependentOutputException):
            running.read()  # the only access to values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_real_step_does_not_wait_for_the_device(norm, dtype, host_reads):
    step, batch = step_of(model_of(norm), dtype=dtype), batch_of()
    running = RunningMeans(CPU, skips=False)
    running.add(step([batch], 1))
    with host_reads() as reads:
        running.add(step([batch], 1))
    assert reads == []


def test_host_read_counter_detects_those_of_torchvision(host_reads):
    torch.manual_seed(0)
    torchvision_model = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES, min_size=HEIGHT, max_size=WIDTH
    )
    torchvision_model.train()
    batch = batch_of()
    images = [image.float() / 255 for image in batch.images]
    truth = [{"boxes": batch.targets.boxes[0, :3], "labels": batch.targets.labels[0, :3]}] * 2
    with host_reads() as reads:
        sum(torchvision_model(images, truth).values()).backward()
    assert len(reads) >= 10  # 24 in torchvision 0.29 for two images


@pytest.mark.slow
def test_float16_overflow_changes_no_weight():
    batch, model, start = batch_of(), model_of(), model_of()
    step = step_of(model, dtype=torch.float16, scaled=True)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    metrics = step([batch], 1)
    assert not metrics.grad_norm.isfinite()
    for after, before in zip(model.parameters(), start.parameters(), strict=True):
        assert torch.equal(after, before)
    assert step.scaler.get_scale() == 2.0**39
