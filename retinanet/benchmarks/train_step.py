"""Benchmark a training step without the optimizer: assignment, forward, losses, backward.

All variants use the same images, boxes, classes, weights and threads. Norms are frozen; all other weights are trained.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from retinanet.benchmarks.convolutions import BACKWARD, FORWARD, record, replay
from retinanet.benchmarks.detectron2_pipeline import detectron2_step
from retinanet.benchmarks.measure import Measurement, Variant, compare, ratio
from retinanet.benchmarks.networks import Scene, compiled_network, our_network, torchvision_network, tuned_network
from retinanet.benchmarks.report import comparison_table, growth_table, precision_name, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult, network_size
from retinanet.config import IoUAssignmentConfig, LossConfig, TrainConfig
from retinanet.detection.build import build_assignment
from retinanet.engine.optimizer import build_optimizer
from retinanet.engine.step import TrainStep
from retinanet.losses.build import build_loss
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.device import autocast, resolve_compile
from retinanet.structures import Batch

SIZE, BATCH, CLASSES = (480, 640), 2, 90
GROWTH_SIZE = (256, 320)
GROWTH_BATCHES = (1, 2, 4, 8)
GROWTH_SIDES = (128, 256, 384, 512, 640)
OURS, OURS_COMPILED = "ours", "ours compiled"
PLAIN, TUNED, COMPILED = "torchvision", "torchvision tuned", "torchvision compiled"
CONVOLUTIONS, OPTIMIZER = "convolutions", "our clipping and optimizer"


def run(settings: Settings) -> SuiteResult:
    size = network_size(settings, SIZE)
    batch, classes = settings.batch or BATCH, settings.classes or CLASSES
    scene = Scene(batch, *size, classes, device=settings.device)
    model = our_network(settings.backbone, classes, settings).train()
    theirs = torchvision_network(model, settings.backbone, size, skip_resize=True).to(settings.device).train()
    step = our_step(model, scene, settings, compile=False)
    convolutions = record(step)
    clear(model)

    variants = [
        variant(OURS, model, step),
        variant(PLAIN, theirs, torchvision_step(theirs, scene, settings, torch.float32)),
    ]
    if settings.compiled:
        step = our_step(model, scene, settings, compile=True)
        variants.insert(1, variant(OURS_COMPILED, model, step, compiled=True))
    networks = {TUNED: tuned_network(theirs, settings)}
    if settings.compiled:
        networks[COMPILED] = compiled_network(theirs, settings)
    for name, network in networks.items():
        step = torchvision_step(network, scene, settings, settings.dtype)
        variants.append(variant(name, network, step, compiled=name == COMPILED))
    origin, network, their_step = detectron2_step(model, scene, settings)
    detectron2 = f"detectron2 ({origin})"
    variants.append(variant(detectron2, network, their_step))
    variants.append(Variant(CONVOLUTIONS, replay(convolutions)))
    variants.append(our_update(model, settings))

    measured = compare(variants, rounds=settings.rounds, device=settings.device, what="train_step")
    title = (
        f"train_step: {settings.backbone}, {batch} x {size[0]}x{size[1]}, {classes} classes, "
        f"{precision_name(settings.dtype)} ({PLAIN}: float32)"
    )
    tables = [comparison_table(title, measured, ours=OURS, apart=(OPTIMIZER,))]
    details = {
        "size": size,
        "batch": batch,
        "classes": classes,
        "backbone": settings.backbone,
        "detectron2": origin,
        "convolutions_forward": convolutions.count(FORWARD),
        "convolutions_backward": convolutions.count(BACKWARD),
        "variants": to_plain_values(measured, ours=OURS),
    }
    if settings.growth:
        growth_size = size if settings.size else GROWTH_SIZE
        by_batch = {f"{count}": measure_growth(settings, count, growth_size, classes) for count in GROWTH_BATCHES}
        by_side = {f"{side}": measure_growth(settings, 1, (side, side), classes) for side in GROWTH_SIDES}
        tables.append(growth_table(f"train_step by batch, {growth_size[0]}x{growth_size[1]}", "batch", by_batch))
        tables.append(growth_table("train_step by side of a square image, batch 1", "side", by_side))
        details["growth"] = {
            "batch": {key: to_plain_values(value, ours=OURS) for key, value in by_batch.items()},
            "side": {key: to_plain_values(value, ours=OURS) for key, value in by_side.items()},
        }
    ratios = {
        "vs_torchvision": ratio(measured[PLAIN], measured[OURS]).of_rounds,
        "vs_torchvision_tuned": ratio(measured[TUNED], measured[OURS]).of_rounds,
        "vs_convolutions": ratio(measured[CONVOLUTIONS], measured[OURS]).of_rounds,
        "vs_detectron2": ratio(measured[detectron2], measured[OURS]).of_rounds,
    }
    if settings.compiled:
        # Our variant that `train.compile: auto` would select on this device.
        chosen = OURS_COMPILED if resolve_compile(settings.device, "auto") else OURS
        ratios["vs_torchvision_compiled"] = ratio(measured[COMPILED], measured[chosen]).of_rounds
        details["vs_torchvision_compiled_uses"] = chosen
    return SuiteResult(ratios, tables, details)


def our_step(model: RetinaNet, scene: Scene, settings: Settings, *, compile: bool) -> Callable[[], Tensor]:
    """Return a training step with the default config, without the optimizer update."""
    step = default_step(model, settings, compile=compile)
    batch = Batch(scene.images, scene.image_sizes, scene.image_sizes, scene.targets, tuple(range(len(scene.images))))
    return lambda: step.backward([batch])[0].total


def default_step(model: RetinaNet, settings: Settings, *, compile: bool) -> TrainStep:
    cfg = TrainConfig(epochs=1)
    return TrainStep(
        model,
        build_loss(LossConfig(), compile=compile),
        build_optimizer(model, cfg),
        torch.amp.GradScaler(settings.device.type, enabled=False),
        assign=build_assignment(IoUAssignmentConfig()),
        dtype=settings.dtype,
        clip_norm=cfg.clip_norm,
        compile=compile,
    )


def torchvision_step(network: nn.Module, scene: Scene, settings: Settings, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Return a step as in torchvision's training references: loss under autocast, float images from the loader."""

    def step() -> Tensor:
        with autocast(settings.device, dtype):
            loss = sum(network(scene.float_images, scene.objects).values())
        loss.backward()
        return loss

    return step


def our_update(model: RetinaNet, settings: Settings) -> Variant:
    """Gradient clipping and the default optimizer, on a copy of the network because they change the weights."""
    model = copy.deepcopy(model)

    def set_gradients() -> None:
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)

    set_gradients()
    step = default_step(model, settings, compile=False)
    return Variant(OPTIMIZER, lambda: step.update(1), clean_up=set_gradients)


def variant(name: str, network: nn.Module, step: Callable[[], Tensor], *, compiled: bool = False) -> Variant:
    return Variant(name, step, clean_up=lambda: clear(network), check=is_finite, compiled=compiled)


def clear(network: nn.Module) -> None:
    network.zero_grad(set_to_none=True)


def is_finite(loss: Tensor) -> None:
    """Check that the loss is finite: arithmetic on NaN would distort the timing."""
    assert bool(loss.isfinite()), f"the loss is {loss.item()}"


def measure_growth(settings: Settings, batch: int, size: tuple[int, int], classes: int) -> dict[str, Measurement]:
    """Measure our network and torchvision's plain and tuned variants for a single input shape."""
    scene = Scene(batch, *size, classes, device=settings.device)
    model = our_network(settings.backbone, classes, settings).train()
    theirs = torchvision_network(model, settings.backbone, size, skip_resize=True).to(settings.device).train()
    faster = tuned_network(theirs, settings)
    variants = [
        variant(OURS, model, our_step(model, scene, settings, compile=False)),
        variant(PLAIN, theirs, torchvision_step(theirs, scene, settings, torch.float32)),
        variant(TUNED, faster, torchvision_step(faster, scene, settings, settings.dtype)),
    ]
    what = f"train_step {batch} x {size[0]}x{size[1]}"
    return compare(variants, rounds=settings.rounds, device=settings.device, what=what)
