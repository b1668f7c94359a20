"""Benchmark inference speed, from decoded image to detections.

Random weights would give no detections, making postprocessing unrealistically fast. The last layer of the class subnet
is therefore scaled and shifted to give every level more candidates than `top_k` keeps, and every image the maximum
number of detections. Both detectors have the same weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from retinanet.benchmarks.candidates import check_candidates, shift_for_candidates
from retinanet.benchmarks.convolutions import FORWARD, record, replay
from retinanet.benchmarks.measure import Measurement, Variant, compare, ratio
from retinanet.benchmarks.networks import Scene, compiled_network, our_network, torchvision_network, tuned_network
from retinanet.benchmarks.report import comparison_table, growth_table, precision_name, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult, network_size
from retinanet.config import PostprocessConfig
from retinanet.detection.postprocess import Postprocess
from retinanet.inference.network import InferenceModel, inference_model
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.device import autocast
from retinanet.structures import Detections

SIZE, BATCH, CLASSES = (800, 1344), 1, 90
GROWTH_SIDES = (256, 384, 512, 640, 800)
LOGIT_STD = 1.5  # target for the standard deviation of class logits (median over levels)
OURS, OURS_COMPILED = "ours", "ours compiled"
PLAIN, TUNED, COMPILED, CONVOLUTIONS = "torchvision", "torchvision tuned", "torchvision compiled", "convolutions"


def run(settings: Settings) -> SuiteResult:
    size = network_size(settings, SIZE)
    batch, classes = settings.batch or BATCH, settings.classes or CLASSES
    measured, convolutions = measure(settings, batch, size, classes, all_variants=True)
    title = (
        f"inference: {settings.backbone}, {batch} x {size[0]}x{size[1]}, {classes} classes, "
        f"{precision_name(settings.dtype)} ({PLAIN}: float32)"
    )
    tables = [comparison_table(title, measured, ours=OURS)]
    details = {
        "size": size,
        "batch": batch,
        "classes": classes,
        "backbone": settings.backbone,
        "convolutions_forward": convolutions,
        "variants": to_plain_values(measured, ours=OURS),
    }
    if settings.growth:
        by_side = {
            str(side): measure(settings, 1, (side, side), classes, all_variants=False)[0] for side in GROWTH_SIDES
        }
        tables.append(growth_table("inference by side of a square image, batch 1", "side", by_side))
        details["growth"] = {"side": {key: to_plain_values(value, ours=OURS) for key, value in by_side.items()}}
    ratios = {
        "vs_torchvision": ratio(measured[PLAIN], measured[OURS]).of_rounds,
        "vs_torchvision_tuned": ratio(measured[TUNED], measured[OURS]).of_rounds,
        "vs_convolutions": ratio(measured[CONVOLUTIONS], measured[OURS]).of_rounds,
    }
    if settings.compiled:  # both networks are compiled
        ratios["vs_torchvision_compiled"] = ratio(measured[COMPILED], measured[OURS_COMPILED]).of_rounds
    return SuiteResult(ratios, tables, details)


def measure(
    settings: Settings, batch: int, size: tuple[int, int], classes: int, *, all_variants: bool
) -> tuple[dict[str, Measurement], int]:
    """Measure the variants, and count the convolutions in our forward pass.

    Without `all_variants`, measure only our network and torchvision's plain and tuned variants.
    """
    scene = Scene(batch, *size, classes, device=settings.device)
    model = our_network(settings.backbone, classes, settings).eval()
    make_candidates(model, scene.images, scene.image_sizes)
    theirs = torchvision_network(model, settings.backbone, size, skip_resize=False).to(settings.device).eval()
    ours = inference_model(model, dtype=settings.dtype, compile=False)
    call = our_call(ours, scene)
    convolutions = record(call)

    variants = [Variant(OURS, call, check=our_check(ours, scene))]
    if settings.compiled and all_variants:
        network = inference_model(model, dtype=settings.dtype, compile=True)
        check = our_check(network, scene)
        variants.append(Variant(OURS_COMPILED, our_call(network, scene), check=check, compiled=True))
    others = [(PLAIN, theirs, torch.float32), (TUNED, tuned_network(theirs, settings), settings.dtype)]
    if settings.compiled and all_variants:
        others.append((COMPILED, compiled_network(theirs, settings), settings.dtype))
    for name, network, dtype in others:
        call = torchvision_call(network, scene, settings, dtype)
        check = torchvision_check(network, call, scene)
        variants.append(Variant(name, call, check=check, compiled=name == COMPILED))
    if all_variants:
        variants.append(Variant(CONVOLUTIONS, replay(convolutions)))
    what = f"inference {batch} x {size[0]}x{size[1]}"
    measured = compare(variants, rounds=settings.rounds, device=settings.device, what=what)
    return measured, convolutions.count(FORWARD)


def our_call(network: InferenceModel, scene: Scene) -> Callable[[], list[Detections]]:
    postprocess = Postprocess(**PostprocessConfig().model_dump())

    @torch.inference_mode()
    def call() -> list[Detections]:
        outputs = network(scene.images, scene.image_sizes)
        return postprocess(outputs, scene.image_sizes, scene.image_sizes)

    return call


def torchvision_call(
    network: nn.Module, scene: Scene, settings: Settings, dtype: torch.dtype
) -> Callable[[], list[dict[str, Tensor]]]:
    @torch.inference_mode()
    def call() -> list[dict[str, Tensor]]:
        images = [image.float() / 255 for image in scene.images]
        with autocast(settings.device, dtype):
            return network(images)

    return call


@torch.no_grad()
def make_candidates(
    model: RetinaNet,
    images: Tensor,
    image_sizes: Tensor,
    shift: Callable[[list[Tensor]], Tensor] = shift_for_candidates,
) -> None:
    """Set the weights of the class subnet so that images (B, 3, H, W) have a certain number of candidates.

    Args:
        shift: computes what to add to logits L x (B, A_l, K); by default, what gives CANDIDATES_PER_LEVEL candidates on
            each level with enough (anchor, class) pairs.
    """
    torch.manual_seed(0)
    *convolutions, last = (layer for layer in model.head.class_subnet if isinstance(layer, nn.Conv2d))
    for convolution in convolutions:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    logits = [level.float() for level in model(images, image_sizes).class_logits]
    factor = LOGIT_STD / torch.stack([level.std() for level in logits]).median()
    last.weight *= factor
    last.bias += shift([level * factor for level in logits])


def our_check(network: InferenceModel, scene: Scene) -> Callable[[list[Detections]], None]:
    @torch.inference_mode()
    def check(results: list[Detections]) -> None:
        logits = network(scene.images, scene.image_sizes).class_logits
        check_candidates(logits, [len(detections.scores) for detections in results])

    return check


def torchvision_check(
    network: nn.Module, call: Callable[[], Any], scene: Scene
) -> Callable[[list[dict[str, Tensor]]], None]:
    def check(results: list[dict[str, Tensor]]) -> None:
        outputs: dict[str, Tensor] = {}
        hook = network.head.register_forward_hook(lambda module, inputs, output: outputs.update(output))
        try:
            call()
        finally:
            hook.remove()
        cells = [-(-scene.size[0] // stride) * -(-scene.size[1] // stride) for stride in (8, 16, 32, 64, 128)]
        per_cell = outputs["cls_logits"].shape[1] // sum(cells)
        logits = list(outputs["cls_logits"].split([count * per_cell for count in cells], dim=1))
        check_candidates(logits, [len(detections["scores"]) for detections in results])

    return check
