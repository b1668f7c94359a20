"""From a decoded image to its final detections.

Random weights find nothing, and finding nothing is quick. So the last layer of the classes is set until every level has
more candidates than are kept of it, and as many detections come out as may: in both detectors, with the same weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from retinanet.benchmarks.candidates import check_candidates, shift_for_candidates
from retinanet.benchmarks.convolutions import FORWARD, record, replay
from retinanet.benchmarks.measure import Contestant, Measurement, compete, ratio
from retinanet.benchmarks.networks import Scene, compiled_network, our_network, torchvision_network, tuned_network
from retinanet.benchmarks.report import figures, growth_table, precision_name, race
from retinanet.benchmarks.settings import Outcome, Settings, network_size
from retinanet.config import PostprocessConfig
from retinanet.detection.postprocess import Postprocess
from retinanet.inference.network import InferenceModel, inference_model
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.device import autocast
from retinanet.structures import Detections

SIZE, BATCH, CLASSES = (800, 1344), 1, 90
GROWTH_SIDES = (256, 384, 512, 640, 800)
SPREAD = 1.5  # of the logits of a level, as a standard deviation
OURS, OURS_COMPILED = "ours", "ours compiled"
PLAIN, TUNED, COMPILED, CONVOLUTIONS = "torchvision", "torchvision tuned", "torchvision compiled", "convolutions"


def run(settings: Settings) -> Outcome:
    size = network_size(settings, SIZE)
    batch, classes = settings.batch or BATCH, settings.classes or CLASSES
    measured, convolutions = measure(settings, batch, size, classes, everything=True)
    title = (
        f"inference: {settings.backbone}, {batch} x {size[0]}x{size[1]}, {classes} classes, "
        f"{precision_name(settings.dtype)} ({PLAIN}: float32)"
    )
    tables = [race(title, measured, ours=OURS)]
    details = {
        "size": size,
        "batch": batch,
        "classes": classes,
        "backbone": settings.backbone,
        "convolutions_forward": convolutions,
        "contestants": figures(measured, ours=OURS),
    }
    if settings.growth:
        by_side = {str(side): measure(settings, 1, (side, side), classes, everything=False)[0] for side in GROWTH_SIDES}
        tables.append(growth_table("inference by side of a square image, batch 1", "side", by_side))
        details["growth"] = {"side": {key: figures(value, ours=OURS) for key, value in by_side.items()}}
    ratios = {
        "vs_torchvision": ratio(measured[PLAIN], measured[OURS]).of_rounds,
        "vs_torchvision_tuned": ratio(measured[TUNED], measured[OURS]).of_rounds,
        "vs_convolutions": ratio(measured[CONVOLUTIONS], measured[OURS]).of_rounds,
    }
    if settings.compiled:  # like with like: both compiled
        ratios["vs_torchvision_compiled"] = ratio(measured[COMPILED], measured[OURS_COMPILED]).of_rounds
    return Outcome(ratios, tables, details)


def measure(
    settings: Settings, batch: int, size: tuple[int, int], classes: int, *, everything: bool
) -> tuple[dict[str, Measurement], int]:
    """The contestants, and how many convolutions ours computes; without `everything`, ours and torchvision's two."""
    scene = Scene(batch, *size, classes, device=settings.device)
    model = our_network(settings.backbone, classes, settings).eval()
    make_candidates(model, scene)
    theirs = torchvision_network(model, settings.backbone, size, skip_resize=False).to(settings.device).eval()
    ours = inference_model(model, dtype=settings.dtype, compile=False)
    call = our_call(ours, scene)
    convolutions = record(call)

    contestants = [Contestant(OURS, call, check=our_check(ours, scene))]
    if settings.compiled and everything:
        network = inference_model(model, dtype=settings.dtype, compile=True)
        check = our_check(network, scene)
        contestants.append(Contestant(OURS_COMPILED, our_call(network, scene), check=check, compiled=True))
    rivals = [(PLAIN, theirs, torch.float32), (TUNED, tuned_network(theirs, settings), settings.dtype)]
    if settings.compiled and everything:
        rivals.append((COMPILED, compiled_network(theirs, settings), settings.dtype))
    for name, network, dtype in rivals:
        call = torchvision_call(network, scene, settings, dtype)
        check = torchvision_check(network, call, scene)
        contestants.append(Contestant(name, call, check=check, compiled=name == COMPILED))
    if everything:
        contestants.append(Contestant(CONVOLUTIONS, replay(convolutions)))
    what = f"inference {batch} x {size[0]}x{size[1]}"
    measured = compete(contestants, rounds=settings.rounds, device=settings.device, what=what)
    return measured, convolutions.count(FORWARD)


def our_call(network: InferenceModel, scene: Scene) -> Callable[[], list[Detections]]:
    postprocess = Postprocess(**PostprocessConfig().model_dump())

    @torch.inference_mode()
    def call() -> list[Detections]:
        predictions = network(scene.images, scene.image_sizes)
        return postprocess(predictions, scene.image_sizes, scene.image_sizes)

    return call


def torchvision_call(
    network: nn.Module, scene: Scene, settings: Settings, dtype: torch.dtype
) -> Callable[[], list[dict[str, Tensor]]]:
    @torch.inference_mode()
    def call() -> list[dict[str, Tensor]]:
        pictures = [image.float() / 255 for image in scene.images]
        with autocast(settings.device, dtype):
            return network(pictures)

    return call


@torch.no_grad()
def make_candidates(model: RetinaNet, scene: Scene) -> None:
    """Set the class subnet so that each level has WANTED candidates, or as many as it has anchors times classes."""
    torch.manual_seed(0)
    *convolutions, last = (layer for layer in model.head.class_subnet if isinstance(layer, nn.Conv2d))
    for convolution in convolutions:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    logits = [level.float() for level in model(scene.images, scene.image_sizes).class_logits]
    factor = SPREAD / torch.stack([level.std() for level in logits]).median()
    last.weight *= factor
    last.bias += shift_for_candidates([level * factor for level in logits])


def our_check(network: InferenceModel, scene: Scene) -> Callable[[list[Detections]], None]:
    @torch.inference_mode()
    def check(found: list[Detections]) -> None:
        logits = network(scene.images, scene.image_sizes).class_logits
        check_candidates(logits, [len(detections.scores) for detections in found])

    return check


def torchvision_check(
    network: nn.Module, call: Callable[[], Any], scene: Scene
) -> Callable[[list[dict[str, Tensor]]], None]:
    def check(found: list[dict[str, Tensor]]) -> None:
        seen: dict[str, Tensor] = {}
        hook = network.head.register_forward_hook(lambda module, inputs, output: seen.update(output))
        try:
            call()
        finally:
            hook.remove()
        cells = [-(-scene.size[0] // stride) * -(-scene.size[1] // stride) for stride in (8, 16, 32, 64, 128)]
        per_cell = seen["cls_logits"].shape[1] // sum(cells)
        logits = list(seen["cls_logits"].split([count * per_cell for count in cells], dim=1))
        check_candidates(logits, [len(detections["scores"]) for detections in found])

    return check
