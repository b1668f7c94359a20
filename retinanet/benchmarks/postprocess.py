"""Benchmark postprocessing from head outputs to final detections: ours and that of torchvision's RetinaNet."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet

from retinanet.benchmarks.assignment import anchor_grids
from retinanet.benchmarks.candidates import MAX_DETECTIONS, check_candidates, shift_for_candidates
from retinanet.benchmarks.measure import Measurement, Variant, compare, ratio
from retinanet.benchmarks.networks import CHANNELS, Scene
from retinanet.benchmarks.report import comparison_table, growth_table, precision_name, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult
from retinanet.config import PostprocessConfig
from retinanet.detection.assignment import assign
from retinanet.detection.boxes import encode
from retinanet.detection.postprocess import Postprocess
from retinanet.runtime.device import autocast
from retinanet.structures import HeadOutputs

SIZE, BATCHES, CLASSES = (800, 1344), (1, 8), 90
GROWTH_CLASSES = (20, 80, 365, 1203)
LOGIT_MEAN, LOGIT_STD, DELTA_STD = -5.0, 1.0, 0.1  # 2 % of all (anchor, class) pairs score above 0.05
OBJECTS = 60  # per image
CANDIDATE_IOU = 0.3  # minimum IoU between an object and its candidate anchors
NO_OBJECT_LOGIT = -8.0  # logit of all other (anchor, class) pairs
RESIZE_SCALE = 0.8  # side of the resized image / side of the original image
SAME_BOX = 0.1  # pixels; maximum difference of coordinates
SEPARATION = 2**-10  # relative; less than the distance between neighbouring bfloat16 or float16 values
OURS, THEIRS = "ours", "torchvision"


def run(settings: Settings) -> SuiteResult:
    size, classes = settings.size or SIZE, settings.classes or CLASSES
    batches = (settings.batch,) if settings.batch else BATCHES
    tables, details, ratios = [], {"size": size, "classes": classes}, {}
    for batch in batches:
        measured, identical = measure(settings, noise_outputs(size, batch, classes, settings), size)
        title = f"postprocess: {batch} x {size[0]}x{size[1]}, {classes} classes, {precision_name(settings.dtype)}"
        tables += [comparison_table(title, measured, ours=OURS), f"detections identical in both: {identical:.2%}"]
        details[f"batch_{batch}"] = {
            "variants": to_plain_values(measured, ours=OURS),
            "identical_detections": identical,
        }
        ratios.setdefault("vs_torchvision", ratio(measured[THEIRS], measured[OURS]).of_rounds)
    measured, identical = measure(settings, crowded_outputs(size, 1, classes, settings), size)
    title = f"postprocess: 1 x {size[0]}x{size[1]}, candidates clustered around {OBJECTS} objects"
    tables += [comparison_table(title, measured, ours=OURS), f"detections identical in both: {identical:.2%}"]
    details["crowds"] = {"variants": to_plain_values(measured, ours=OURS), "identical_detections": identical}
    ratios["vs_torchvision_crowds"] = ratio(measured[THEIRS], measured[OURS]).of_rounds
    if settings.growth:
        by_classes = {
            str(count): measure(settings, noise_outputs(size, 1, count, settings), size)[0] for count in GROWTH_CLASSES
        }
        tables.append(growth_table(f"postprocess by classes, 1 x {size[0]}x{size[1]}", "classes", by_classes))
        details["growth"] = {"classes": {key: to_plain_values(value, ours=OURS) for key, value in by_classes.items()}}
    return SuiteResult(ratios, tables, details)


def measure(settings: Settings, outputs: HeadOutputs, size: tuple[int, int]) -> tuple[dict[str, Measurement], float]:
    """Measure both implementations, and the fraction of our detections that torchvision's also returns."""
    batch = len(outputs.class_logits[0])
    image_sizes = torch.tensor([size] * batch, device=settings.device)
    original_sizes = (image_sizes / RESIZE_SCALE).long()
    postprocess = Postprocess(**PostprocessConfig().model_dump())

    ours = Variant(OURS, lambda: postprocess(outputs, image_sizes, original_sizes))
    theirs = Variant(THEIRS, torchvision_call(outputs, size, original_sizes.tolist(), settings))
    what = f"postprocess {batch} x {size[0]}x{size[1]}"
    measured = compare([ours, theirs], rounds=settings.rounds, device=settings.device, what=what)
    return measured, share_of_identical(postprocess, outputs, size, settings)


def noise_outputs(size: tuple[int, int], batch: int, classes: int, settings: Settings) -> HeadOutputs:
    """Generate random logits and box deltas, with more candidates per level than `top_k` keeps."""
    random = torch.Generator(settings.device).manual_seed(0)
    grids = anchor_grids(size, settings.device)
    logits, deltas = [], []
    for grid in grids:
        shape = (batch, grid[..., 0].numel())
        level = torch.randn(*shape, classes, generator=random, device=settings.device)
        level = level.mul_(LOGIT_STD).add_(LOGIT_MEAN)
        logits.append((level + shift_for_candidates([level]).clamp(min=0)).to(settings.dtype))
        offsets = torch.randn(*shape, 4, generator=random, device=settings.device).mul_(DELTA_STD)
        deltas.append(offsets.to(settings.dtype))
    check_candidates(logits, [])
    return HeadOutputs(logits, deltas, grids)


def crowded_outputs(size: tuple[int, int], batch: int, classes: int, settings: Settings) -> HeadOutputs:
    """Generate outputs like those of a trained network: candidates only at anchors near an object, for its class."""
    random = torch.Generator(settings.device).manual_seed(0)
    grids = anchor_grids(size, settings.device)
    targets = Scene(batch, *size, classes, num_boxes=OBJECTS, device=settings.device).targets
    assignment = assign(grids, targets, fg_iou=CANDIDATE_IOU, bg_iou=CANDIDATE_IOU)
    gt_index, positive = assignment.gt_index, assignment.positive
    count = positive.shape[1]
    object_logits = torch.randn(batch, count, generator=random, device=settings.device)
    logits = torch.full((batch, count, classes), NO_OBJECT_LOGIT, device=settings.device)
    label = targets.labels.gather(1, gt_index)[..., None]
    logits.scatter_(2, label, torch.where(positive, object_logits, NO_OBJECT_LOGIT)[..., None])
    boxes = targets.boxes.gather(1, gt_index[..., None].expand(-1, -1, 4))
    offsets = torch.randn(batch, count, 4, generator=random, device=settings.device).mul_(DELTA_STD)
    offsets += encode(boxes, torch.cat([grid.reshape(-1, 4) for grid in grids]))
    lengths = [grid[..., 0].numel() for grid in grids]
    deltas = torch.where(positive[..., None], offsets, 0)
    return HeadOutputs(
        [level.to(settings.dtype) for level in logits.split(lengths, 1)],
        [level.to(settings.dtype) for level in deltas.split(lengths, 1)],
        grids,
    )


def torchvision_call(
    outputs: HeadOutputs, size: tuple[int, int], original_sizes: list[list[int]], settings: Settings
) -> Callable[[], list[dict[str, Tensor]]]:
    """Return a function that calls `RetinaNet.postprocess_detections` and rescales boxes, without running the network.

    It runs under autocast, as in torchvision.
    """
    backbone = nn.Identity()  # never run
    backbone.out_channels = CHANNELS
    network = TorchvisionRetinaNet(backbone, num_classes=2, detections_per_img=MAX_DETECTIONS).eval()
    anchors = [grid.reshape(-1, 4) for grid in outputs.anchors]
    sizes = [size] * len(original_sizes)
    head_outputs = {"cls_logits": outputs.class_logits, "bbox_regression": outputs.box_deltas}

    @torch.no_grad()
    def call() -> list[dict[str, Tensor]]:
        with autocast(settings.device, settings.dtype):
            detections = network.postprocess_detections(head_outputs, [anchors] * len(sizes), sizes)
        return network.transform.postprocess(detections, sizes, [tuple(original) for original in original_sizes])

    return call


def share_of_identical(
    postprocess: Postprocess, outputs: HeadOutputs, size: tuple[int, int], settings: Settings
) -> float:
    """Fraction of our detections that torchvision also finds, given the same float32 outputs without equal logits.

    In bfloat16, many logits are equal, and the order of equal scores is undefined. Random factors separate them by less
    than the distance between bfloat16 values. The outputs are converted to float32 because torchvision decodes boxes in
    the dtype of the outputs, and bfloat16 would round coordinates by several pixels.
    """
    random = torch.Generator(settings.device).manual_seed(0)
    sizes = torch.tensor([size], device=settings.device)
    original = (sizes / RESIZE_SCALE).long()
    identical = total = 0
    for image in range(len(outputs.class_logits[0])):  # one at a time, to save memory
        logits, deltas = (
            [level[image : image + 1].float() for level in part] for part in (outputs.class_logits, outputs.box_deltas)
        )
        logits = [
            level * (1 + SEPARATION * torch.rand(level.shape, generator=random, device=settings.device))
            for level in logits
        ]
        separated = HeadOutputs(logits, deltas, outputs.anchors)
        (ours,) = postprocess(separated, sizes, original)
        (theirs,) = torchvision_call(separated, size, original.tolist(), settings._replace(dtype=torch.float32))()
        is_near = (ours.boxes[:, None] - theirs["boxes"].cpu()).abs().amax(-1) < SAME_BOX
        identical += int((is_near & (ours.labels[:, None] == theirs["labels"].cpu())).any(1).sum())
        total += len(ours)
    return identical / max(total, 1)
