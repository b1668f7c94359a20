"""One step of training without its optimizer: matching, forward, losses, backward.

The same images, boxes, classes, weights and threads for all; every weight is trained, batch norms are frozen.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from retinanet.benchmarks.convolutions import BACKWARD, FORWARD, record, replay
from retinanet.benchmarks.detectron2_pipeline import detectron2_step
from retinanet.benchmarks.measure import Contestant, Measurement, compete, ratio
from retinanet.benchmarks.networks import Scene, compiled_network, our_network, torchvision_network, tuned_network
from retinanet.benchmarks.report import figures, growth_table, precision_name, race
from retinanet.benchmarks.settings import Outcome, Settings, network_size
from retinanet.config import IoUAssignmentConfig, LossConfig, TrainConfig
from retinanet.detection.build import build_assignment
from retinanet.engine.optimizer import build_optimizer
from retinanet.engine.step import TrainStep
from retinanet.losses.detection import build_loss
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


def run(settings: Settings) -> Outcome:
    size = network_size(settings, SIZE)
    batch, classes = settings.batch or BATCH, settings.classes or CLASSES
    scene = Scene(batch, *size, classes, device=settings.device)
    model = our_network(settings.backbone, classes, settings).train()
    theirs = torchvision_network(model, settings.backbone, size, skip_resize=True).to(settings.device).train()
    step = our_step(model, scene, settings, compile=False)
    convolutions = record(step)
    clear(model)

    contestants = [
        contestant(OURS, model, step),
        contestant(PLAIN, theirs, torchvision_step(theirs, scene, settings, torch.float32)),
    ]
    if settings.compiled:
        step = our_step(model, scene, settings, compile=True)
        contestants.insert(1, contestant(OURS_COMPILED, model, step, compiled=True))
    networks = {TUNED: tuned_network(theirs, settings)}
    if settings.compiled:
        networks[COMPILED] = compiled_network(theirs, settings)
    for name, network in networks.items():
        step = torchvision_step(network, scene, settings, settings.dtype)
        contestants.append(contestant(name, network, step, compiled=name == COMPILED))
    origin, network, their_step = detectron2_step(model, scene, settings)
    detectron2 = f"detectron2 ({origin})"
    contestants.append(contestant(detectron2, network, their_step))
    contestants.append(Contestant(CONVOLUTIONS, replay(convolutions)))
    contestants.append(our_update(model, settings))

    measured = compete(contestants, rounds=settings.rounds, device=settings.device, what="train_step")
    title = (
        f"train_step: {settings.backbone}, {batch} x {size[0]}x{size[1]}, {classes} classes, "
        f"{precision_name(settings.dtype)} ({PLAIN}: float32)"
    )
    tables = [race(title, measured, ours=OURS, apart=(OPTIMIZER,))]
    details = {
        "size": size,
        "batch": batch,
        "classes": classes,
        "backbone": settings.backbone,
        "detectron2": origin,
        "convolutions_forward": convolutions.count(FORWARD),
        "convolutions_backward": convolutions.count(BACKWARD),
        "contestants": figures(measured, ours=OURS),
    }
    if settings.growth:
        growth_size = size if settings.size else GROWTH_SIZE
        by_batch = {f"{count}": grown(settings, count, growth_size, classes) for count in GROWTH_BATCHES}
        by_side = {f"{side}": grown(settings, 1, (side, side), classes) for side in GROWTH_SIDES}
        tables.append(growth_table(f"train_step by batch, {growth_size[0]}x{growth_size[1]}", "batch", by_batch))
        tables.append(growth_table("train_step by side of a square image, batch 1", "side", by_side))
        details["growth"] = {
            "batch": {key: figures(value, ours=OURS) for key, value in by_batch.items()},
            "side": {key: figures(value, ours=OURS) for key, value in by_side.items()},
        }
    ratios = {
        "vs_torchvision": ratio(measured[PLAIN], measured[OURS]).of_rounds,
        "vs_torchvision_tuned": ratio(measured[TUNED], measured[OURS]).of_rounds,
        "vs_convolutions": ratio(measured[CONVOLUTIONS], measured[OURS]).of_rounds,
        "vs_detectron2": ratio(measured[detectron2], measured[OURS]).of_rounds,
    }
    if settings.compiled:
        # Ours as a config with `train.compile: auto` runs on this device.
        chosen = OURS_COMPILED if resolve_compile(settings.device, "auto") else OURS
        ratios["vs_torchvision_compiled"] = ratio(measured[COMPILED], measured[chosen]).of_rounds
        details["vs_torchvision_compiled_is_of"] = chosen
    return Outcome(ratios, tables, details)


def our_step(model: RetinaNet, scene: Scene, settings: Settings, *, compile: bool) -> Callable[[], Tensor]:
    """The step of a run without its update, with the defaults of a config."""
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
    """As its references train: loss inside autocast. Images are float already, as its data loading leaves them."""

    def step() -> Tensor:
        with autocast(settings.device, dtype):
            loss = sum(network(scene.pictures, scene.objects).values())
        loss.backward()
        return loss

    return step


def our_update(model: RetinaNet, settings: Settings) -> Contestant:
    """Clipping and the default optimizer on gradients that are there; on a copy of the network, which drifts."""
    model = copy.deepcopy(model)

    def give_gradients() -> None:
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)

    give_gradients()
    step = default_step(model, settings, compile=False)
    return Contestant(OPTIMIZER, lambda: step.update(1), clean_up=give_gradients)


def contestant(name: str, network: nn.Module, step: Callable[[], Tensor], *, compiled: bool = False) -> Contestant:
    return Contestant(name, step, clean_up=lambda: clear(network), check=is_finite, compiled=compiled)


def clear(network: nn.Module) -> None:
    network.zero_grad(set_to_none=True)


def is_finite(loss: Tensor) -> None:
    """Arithmetic on nan or on denormal numbers takes another time than that of a real step."""
    assert bool(loss.isfinite()), f"the loss is {loss.item()}"


def grown(settings: Settings, batch: int, size: tuple[int, int], classes: int) -> dict[str, Measurement]:
    """Ours and torchvision's two on one shape."""
    scene = Scene(batch, *size, classes, device=settings.device)
    model = our_network(settings.backbone, classes, settings).train()
    theirs = torchvision_network(model, settings.backbone, size, skip_resize=True).to(settings.device).train()
    faster = tuned_network(theirs, settings)
    contestants = [
        contestant(OURS, model, our_step(model, scene, settings, compile=False)),
        contestant(PLAIN, theirs, torchvision_step(theirs, scene, settings, torch.float32)),
        contestant(TUNED, faster, torchvision_step(faster, scene, settings, settings.dtype)),
    ]
    what = f"train_step {batch} x {size[0]}x{size[1]}"
    return compete(contestants, rounds=settings.rounds, device=settings.device, what=what)
