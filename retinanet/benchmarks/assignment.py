"""Benchmark IoU-based anchor assignment: ours, which is batched, and torchvision's, one image at a time."""

import os
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from retinanet.benchmarks.measure import Measurement, Variant, compare, ratio
from retinanet.benchmarks.networks import Scene
from retinanet.benchmarks.report import comparison_table, growth_table, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.assignment import Assignment, assign

SIZE, BATCH, BOXES = (800, 1344), 16, 20
GROWTH_BOXES = (1, 20, 100, 500, 2000)
OURS, THEIRS = "ours", "torchvision"
# Peak memory of torchvision's assignment per (box, anchor) pair (corners, sides, areas, IoU): measured, rounded up.
THEIR_BYTES_PER_PAIR = 40


def run(settings: Settings) -> SuiteResult:
    size, batch = settings.size or SIZE, settings.batch or BATCH
    grids = anchor_grids(size, settings.device)
    count = sum(grid[..., 0].numel() for grid in grids)
    measured, different = measure(grids, settings, size, batch, BOXES)
    title = f"assignment: {batch} images x {BOXES} boxes x {count} anchors ({size[0]}x{size[1]})"
    tables = [
        comparison_table(title, measured, ours=OURS),
        f"anchors assigned differently: {different} of {batch * count} (rounding at a threshold or a tie)",
    ]
    details = {
        "size": size,
        "batch": batch,
        "boxes": BOXES,
        "anchors": count,
        "assigned_differently": different,
        "variants": to_plain_values(measured, ours=OURS),
    }
    if settings.growth:
        by_boxes = {str(boxes): measure(grids, settings, size, 1, boxes)[0] for boxes in GROWTH_BOXES}
        tables.append(growth_table(f"assignment by boxes, 1 image x {count} anchors", "boxes", by_boxes))
        details["growth"] = {"boxes": {key: to_plain_values(value, ours=OURS) for key, value in by_boxes.items()}}
    return SuiteResult({"vs_torchvision": ratio(measured[THEIRS], measured[OURS]).of_rounds}, tables, details)


def anchor_grids(size: tuple[int, int], device: torch.device) -> list[Tensor]:
    """Generate the default anchors: L x (H_l, W_l, a, 4)."""
    return AnchorGenerator()(*size, device)


def measure(
    grids: list[Tensor], settings: Settings, size: tuple[int, int], batch: int, boxes: int
) -> tuple[dict[str, Measurement], int | None]:
    """Measure both implementations, and count the anchors that they assign differently.

    If there is too little memory for torchvision, it is skipped and the count is None.
    """
    truth = Scene(batch, *size, 90, num_boxes=boxes, device=settings.device)
    anchors = torch.cat([grid.reshape(-1, 4) for grid in grids])
    ours = Variant(OURS, lambda: assign(grids, truth.targets))
    theirs = Variant(THEIRS, torchvision_call(anchors, truth))
    fits = boxes * len(anchors) * THEIR_BYTES_PER_PAIR < free_memory(settings.device)
    variants = [ours, theirs] if fits else [ours]
    measured = compare(variants, rounds=settings.rounds, device=settings.device, what=f"assignment {boxes} boxes")
    return measured, count_different(ours.call(), theirs.call()) if fits else None


def torchvision_call(anchors: Tensor, truth: Scene) -> Callable[[], list[Tensor]]:
    """Matching as in `RetinaNet.compute_loss`: per image, the object of each anchor (A,), negative if none."""
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    return lambda: [matcher(box_iou(objects["boxes"], anchors)) for objects in truth.objects]


def count_different(ours: Assignment, theirs: list[Tensor]) -> int:
    matched = torch.stack(theirs)
    positive, negative = matched >= 0, matched == Matcher.BELOW_LOW_THRESHOLD
    other_object = ours.positive & positive & (ours.gt_index != matched)
    return int(((ours.positive != positive) | (ours.negative != negative) | other_object).sum())


def free_memory(device: torch.device) -> float:
    """Currently available memory in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
