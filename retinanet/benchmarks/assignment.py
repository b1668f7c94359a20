"""Which anchor learns what: our assignment and torchvision's, which takes one image after the other."""

import os
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from retinanet.benchmarks.measure import Contestant, Measurement, compete, ratio
from retinanet.benchmarks.networks import Scene
from retinanet.benchmarks.report import figures, growth_table, race
from retinanet.benchmarks.settings import Outcome, Settings
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.assignment import Assignment, assign

SIZE, BATCH, BOXES = (800, 1344), 16, 20
GROWTH_BOXES = (1, 20, 100, 500, 2000)
OURS, THEIRS = "ours", "torchvision"
# What torchvision's road holds at one time for a (box, anchor) pair: corners, sides, areas, IoU; measured, rounded up.
THEIR_BYTES_A_PAIR = 40


def run(settings: Settings) -> Outcome:
    size, batch = settings.size or SIZE, settings.batch or BATCH
    grids = make_grids(size, settings.device)
    count = sum(grid[..., 0].numel() for grid in grids)
    measured, different = measure(grids, settings, size, batch, BOXES)
    title = f"assignment: {batch} images x {BOXES} boxes x {count} anchors ({size[0]}x{size[1]})"
    tables = [
        race(title, measured, ours=OURS),
        f"anchors that the two treat differently: {different} of {batch * count} (rounding, at a threshold or a tie)",
    ]
    details = {
        "size": size,
        "batch": batch,
        "boxes": BOXES,
        "anchors": count,
        "treated_differently": different,
        "contestants": figures(measured, ours=OURS),
    }
    if settings.growth:
        by_boxes = {str(boxes): measure(grids, settings, size, 1, boxes)[0] for boxes in GROWTH_BOXES}
        tables.append(growth_table(f"assignment by boxes, 1 image x {count} anchors", "boxes", by_boxes))
        details["growth"] = {"boxes": {key: figures(value, ours=OURS) for key, value in by_boxes.items()}}
    return Outcome({"vs_torchvision": ratio(measured[THEIRS], measured[OURS]).of_rounds}, tables, details)


def make_grids(size: tuple[int, int], device: torch.device) -> list[Tensor]:
    """The default anchors: L x (H_l, W_l, a, 4)."""
    return AnchorGenerator()(*size, device)


def measure(
    grids: list[Tensor], settings: Settings, size: tuple[int, int], batch: int, boxes: int
) -> tuple[dict[str, Measurement], int | None]:
    """The contestants, and how many anchors they treat differently; torchvision's stays out where memory is short."""
    truth = Scene(batch, *size, 90, num_boxes=boxes, device=settings.device)
    anchors = torch.cat([grid.reshape(-1, 4) for grid in grids])
    ours = Contestant(OURS, lambda: assign(grids, truth.targets))
    theirs = Contestant(THEIRS, torchvision_road(anchors, truth))
    fits = boxes * len(anchors) * THEIR_BYTES_A_PAIR < free_memory(settings.device)
    contestants = [ours, theirs] if fits else [ours]
    measured = compete(contestants, rounds=settings.rounds, device=settings.device, what=f"assignment {boxes} boxes")
    return measured, count_different(ours.call(), theirs.call()) if fits else None


def torchvision_road(anchors: Tensor, truth: Scene) -> Callable[[], list[Tensor]]:
    """What `RetinaNet.compute_loss` does before its losses: the object of each anchor (A,), negative where none."""
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    return lambda: [matcher(box_iou(objects["boxes"], anchors)) for objects in truth.objects]


def count_different(ours: Assignment, theirs: list[Tensor]) -> int:
    matched = torch.stack(theirs)
    positive, negative = matched >= 0, matched == Matcher.BELOW_LOW_THRESHOLD
    other_object = ours.positive & positive & (ours.gt_index != matched)
    return int(((ours.positive != positive) | (ours.negative != negative) | other_object).sum())


def free_memory(device: torch.device) -> float:
    """Bytes that can be had now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
