"""From what a network says to final detections: ours and the road that torchvision's RetinaNet takes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet

from retinanet.benchmarks.assignment import make_grids
from retinanet.benchmarks.candidates import MAX_DETECTIONS, check_candidates, shift_for_candidates
from retinanet.benchmarks.measure import Contestant, Measurement, compete, ratio
from retinanet.benchmarks.networks import CHANNELS, Scene
from retinanet.benchmarks.report import figures, growth_table, precision_name, race
from retinanet.benchmarks.settings import Outcome, Settings
from retinanet.config import PostprocessConfig
from retinanet.detection.assignment import assign
from retinanet.detection.boxes import encode
from retinanet.detection.postprocess import Postprocess
from retinanet.runtime.device import autocast
from retinanet.structures import Detections, HeadOutputs

SIZE, BATCHES, CLASSES = (800, 1344), (1, 8), 90
GROWTH_CLASSES = (20, 80, 365, 1203)
LOGIT_MEAN, LOGIT_SPREAD, DELTA_SPREAD = -5.0, 1.0, 0.1  # two in a hundred pairs above a score of 0.05
OBJECTS, NEAR, NOTHING = 60, 0.3, -8.0  # an image, the IoU of an anchor that speaks, the logit of one that does not
SHRUNK = 0.8  # side of the resized image / side of the original one
OURS, THEIRS = "ours", "torchvision"


def run(settings: Settings) -> Outcome:
    size, classes = settings.size or SIZE, settings.classes or CLASSES
    batches = (settings.batch,) if settings.batch else BATCHES
    tables, details, ratios = [], {"size": size, "classes": classes}, {}
    for batch in batches:
        measured, same = measure(settings, noise(size, batch, classes, settings), size)
        title = f"postprocess: {batch} x {size[0]}x{size[1]}, {classes} classes, {precision_name(settings.dtype)}"
        tables += [race(title, measured, ours=OURS), f"detections that are the same in both: {same:.2%}"]
        details[f"batch_{batch}"] = {"contestants": figures(measured, ours=OURS), "same_detections": same}
        ratios.setdefault("vs_torchvision", ratio(measured[THEIRS], measured[OURS]).of_rounds)
    measured, same = measure(settings, crowds(size, 1, classes, settings), size)
    title = f"postprocess: 1 x {size[0]}x{size[1]}, candidates crowding on {OBJECTS} objects"
    tables += [race(title, measured, ours=OURS), f"detections that are the same in both: {same:.2%}"]
    details["crowds"] = {"contestants": figures(measured, ours=OURS), "same_detections": same}
    ratios["vs_torchvision_crowds"] = ratio(measured[THEIRS], measured[OURS]).of_rounds
    if settings.growth:
        by_classes = {
            str(count): measure(settings, noise(size, 1, count, settings), size)[0] for count in GROWTH_CLASSES
        }
        tables.append(growth_table(f"postprocess by classes, 1 x {size[0]}x{size[1]}", "classes", by_classes))
        details["growth"] = {"classes": {key: figures(value, ours=OURS) for key, value in by_classes.items()}}
    return Outcome(ratios, tables, details)


def measure(
    settings: Settings, predictions: HeadOutputs, size: tuple[int, int]
) -> tuple[dict[str, Measurement], float]:
    """The contestants, and the share of our detections that torchvision's has as well."""
    batch = len(predictions.class_logits[0])
    image_sizes = torch.tensor([size] * batch, device=settings.device)
    original_sizes = (image_sizes / SHRUNK).long()
    postprocess = Postprocess(**PostprocessConfig().model_dump())

    ours = Contestant(OURS, lambda: postprocess(predictions, image_sizes, original_sizes))
    theirs = Contestant(THEIRS, torchvision_road(predictions, size, original_sizes.tolist(), settings))
    what = f"postprocess {batch} x {size[0]}x{size[1]}"
    measured = compete([ours, theirs], rounds=settings.rounds, device=settings.device, what=what)
    return measured, share_of_same(ours.call(), theirs.call())


def noise(size: tuple[int, int], batch: int, classes: int, settings: Settings) -> HeadOutputs:
    """Random logits and offsets of every anchor, with more candidates on each level than are kept."""
    random = torch.Generator(settings.device).manual_seed(0)
    grids = make_grids(size, settings.device)
    logits, deltas = [], []
    for grid in grids:
        shape = (batch, grid[..., 0].numel())
        level = torch.randn(*shape, classes, generator=random, device=settings.device)
        level = level.mul_(LOGIT_SPREAD).add_(LOGIT_MEAN)
        logits.append((level + shift_for_candidates([level]).clamp(min=0)).to(settings.dtype))
        offsets = torch.randn(*shape, 4, generator=random, device=settings.device).mul_(DELTA_SPREAD)
        deltas.append(offsets.to(settings.dtype))
    check_candidates(logits, [])
    return HeadOutputs(logits, deltas, grids)


def crowds(size: tuple[int, int], batch: int, classes: int, settings: Settings) -> HeadOutputs:
    """What a trained network says: nothing but where objects are, and there the same of every anchor that fits."""
    random = torch.Generator(settings.device).manual_seed(0)
    grids = make_grids(size, settings.device)
    targets = Scene(batch, *size, classes, num_boxes=OBJECTS, device=settings.device).targets
    gt_index, positive, _ = assign(grids, targets, fg_iou=NEAR, bg_iou=NEAR)
    count = positive.shape[1]
    sure = torch.randn(batch, count, generator=random, device=settings.device)
    logits = torch.full((batch, count, classes), NOTHING, device=settings.device)
    label = targets.labels.gather(1, gt_index)[..., None]
    logits.scatter_(2, label, torch.where(positive, sure, NOTHING)[..., None])
    boxes = targets.boxes.gather(1, gt_index[..., None].expand(-1, -1, 4))
    offsets = torch.randn(batch, count, 4, generator=random, device=settings.device).mul_(DELTA_SPREAD)
    offsets += encode(boxes, torch.cat([grid.reshape(-1, 4) for grid in grids]))
    lengths = [grid[..., 0].numel() for grid in grids]
    deltas = torch.where(positive[..., None], offsets, 0)
    return HeadOutputs(
        [level.to(settings.dtype) for level in logits.split(lengths, 1)],
        [level.to(settings.dtype) for level in deltas.split(lengths, 1)],
        grids,
    )


def torchvision_road(
    predictions: HeadOutputs, size: tuple[int, int], original_sizes: list[list[int]], settings: Settings
) -> Callable[[], list[dict[str, Tensor]]]:
    """`RetinaNet.postprocess_detections` and the scaling after it; the network itself is never called.

    Under autocast, as the network would be. In bfloat16 its boxes are that coarse, which the share of same detections
    shows.
    """
    nobody = nn.Identity()
    nobody.out_channels = CHANNELS
    network = TorchvisionRetinaNet(nobody, num_classes=2, detections_per_img=MAX_DETECTIONS).eval()
    anchors = [grid.reshape(-1, 4) for grid in predictions.anchors]
    sizes = [size] * len(original_sizes)
    outputs = {"cls_logits": predictions.class_logits, "bbox_regression": predictions.box_deltas}

    @torch.no_grad()
    def call() -> list[dict[str, Tensor]]:
        with autocast(settings.device, settings.dtype):
            found = network.postprocess_detections(outputs, [anchors] * len(sizes), sizes)
        return network.transform.postprocess(found, sizes, [tuple(original) for original in original_sizes])

    return call


def share_of_same(ours: list[Detections], theirs: list[dict[str, Tensor]]) -> float:
    """Share of our detections of which torchvision's has one of that label with the box within a pixel."""
    same = total = 0
    for mine, other in zip(ours, theirs, strict=True):
        near = (mine.boxes.cpu()[:, None] - other["boxes"].cpu()).abs().amax(-1) < 1
        same += int((near & (mine.labels.cpu()[:, None] == other["labels"].cpu())).any(1).sum())
        total += len(mine.labels)
    return same / max(total, 1)
