"""Fit anchor sizes, scales and aspect ratios to the boxes of a dataset, and find the best IoU of boxes with any anchor.

Shape letters: M boxes, L levels, a anchors per cell.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.config import AnchorConfig
from retinanet.detection.anchors import cell_anchors
from retinanet.detection.boxes import centre_form

# Bounds of the proposed anchors, in strides of their level. An object with exactly the size s of a square anchor on a
# level with stride t has 0.252 (s / t)^2 such anchors with an IoU of at least 0.5 on average: its centre may be off by
# (x, y) with (1 - x)(1 - y) >= 2/3 in units of s, an area of 4 (1/3 + 2/3 log(2/3)). That is one anchor at 2 strides,
# but a quarter at 1, where most objects have only anchors with a lower IoU. In a measurement, this cost most of the AP
# (benchmarks/results/2026-11-30-quickstart.md). An anchor of 8 strides, twice the paper's, spans 8 cells; the receptive
# field of the head's four 3 x 3 convolutions spans 9.
MIN_STRIDES, MAX_STRIDES = 2.0, 8.0
IOU_LEVELS = (0.4, 0.5, 0.6, 0.7)
SLOPE = 0.1  # the shares are step functions of the anchors; a small multiple of the mean IoU guides the search
MAX_RATIO = 8.0  # height / width is between 1 / MAX_RATIO and MAX_RATIO
STEPS = (1.5, 1.25, 1.12, 1.06, 1.03)  # factors by which the search changes one parameter, from coarse to fine
MAX_SWEEPS = 20  # maximum number of passes over all parameters per factor; normally, a few suffice
MIN_STEP_GAIN = 1e-4  # in the score; the search ignores smaller gains


class BoxPlacement(NamedTuple):
    """Sizes of boxes and their distances to the nearest anchor centres, which together determine their best IoU."""

    sides: Tensor  # (M, 2), width and height in pixels
    distances: Tensor  # (M, L, 2), in x and y from the box centre to the nearest anchor centre of each level, pixels

    @classmethod
    def of(cls, boxes: Tensor, anchors: list[Tensor]) -> "BoxPlacement":
        """Place boxes (M, 4) in the anchor grids L x (H_l, W_l, a, 4) of one padded shape.

        The anchors of a cell must share a centre, like those of `AnchorGenerator`.
        """
        centres, sides = centre_form(boxes)
        distances = [
            torch.stack([_to_nearest(centres[:, 0], x), _to_nearest(centres[:, 1], y)], dim=1)
            for x, y in map(_centres, anchors)
        ]
        return cls(sides, torch.stack(distances, dim=1))

    def best_iou(self, cell_sides: Tensor) -> Tensor:
        """Highest IoU of each box with any anchor (M,), given widths and heights of the anchors of a cell (L, a, 2).

        No search over positions is needed: of the anchors of one shape, the one with the nearest centre overlaps most.
        """
        box, anchor = self.sides[:, None, None], cell_sides[None]  # (M, 1, 1, 2), (1, L, a, 2)
        overlap = torch.minimum((box + anchor) / 2 - self.distances[:, :, None], torch.minimum(box, anchor))
        intersection = overlap.clamp_(min=0).prod(dim=-1)
        union = box.prod(dim=-1) + anchor.prod(dim=-1) - intersection
        return (intersection / union).flatten(1).amax(dim=1)


def cell_sides(cfg: AnchorConfig) -> Tensor:
    """Widths and heights of the anchors in a cell of each level, in pixels: (L, a, 2)."""
    cells = [cell_anchors(size, cfg.scales, cfg.aspect_ratios, cfg.rounding) for size in cfg.sizes]
    return centre_form(torch.stack(cells))[1]


def fit_shapes(boxes: BoxPlacement, current: AnchorConfig) -> AnchorConfig:
    """Search for sizes, scales and aspect ratios with a higher `fit_score`, by coordinate descent.

    The numbers of sizes, scales and ratios stay the same, and so do the strides, the first scale (only its product with
    the sizes matters), offset and rounding. Sizes are whole pixels, scales and ratios have two decimals. The search
    starts from the current anchors and from several others, and is deterministic.

    Returns: the best anchors found within the bounds of this module. They can be worse than the current ones, which
        may lie outside these bounds.
    """
    found = [_descend(boxes, start) for start in _starts(boxes, current)]
    return max(found, key=lambda candidate: fit_score(boxes, candidate))  # ties go to the first


def fit_score(boxes: BoxPlacement, cfg: AnchorConfig) -> float:
    """Mean share of the boxes whose best IoU reaches each of IOU_LEVELS, plus SLOPE times their mean best IoU.

    Maximising only the share at the foreground IoU sacrifices higher IoUs, and maximising the mean favours boxes that
    are already well covered (benchmarks/results/2026-11-30-anchor-fit.md compares the three on other images).
    """
    best = boxes.best_iou(cell_sides(cfg))
    shares = torch.stack([(best >= level).double().mean() for level in IOU_LEVELS])
    return float(shares.mean() + SLOPE * best.double().mean())


def _centres(level: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of the columns and of the rows of a grid (H, W, a, 4): (W,) and (H,)."""
    return centre_form(level[0, :, 0])[0][:, 0], centre_form(level[:, 0, 0])[0][:, 1]


def _to_nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Distance of each point to the nearest of some centres in ascending order."""
    right = torch.searchsorted(centres.contiguous(), points.contiguous()).clamp(max=len(centres) - 1)
    left = (right - 1).clamp(min=0)
    return torch.minimum((points - centres[left]).abs(), (points - centres[right]).abs())


def _starts(boxes: BoxPlacement, current: AnchorConfig) -> Iterator[AnchorConfig]:
    """Starting points of the search: the current anchors, and sizes of 2, 3 and 4 strides with ratios of the boxes."""
    yield _within_bounds(current)
    width, height = boxes.sides.double().clamp(min=1e-3).unbind(dim=1)
    count = len(current.aspect_ratios)
    quantiles = torch.quantile((height / width).log(), (torch.arange(count).double() + 0.5) / count).exp()
    for strides in (2, 3, 4):
        sizes = [strides * stride / min(current.scales) for stride in current.strides]
        yield _within_bounds(_replaced(current, sizes, current.scales, quantiles.tolist()))


def _descend(boxes: BoxPlacement, start: AnchorConfig) -> AnchorConfig:
    """Change one parameter at a time, as long as that raises the score."""
    best, best_score = start, fit_score(boxes, start)
    for step in STEPS:
        for _ in range(MAX_SWEEPS):
            before = best
            for number in range(_num_parameters(start)):
                for factor in (step, 1 / step):
                    candidate = _within_bounds(_scaled(best, number, factor))
                    if candidate == best:
                        continue
                    score = fit_score(boxes, candidate)
                    if score > best_score + MIN_STEP_GAIN:
                        best, best_score = candidate, score
            if best == before:
                break
    return _replaced(best, best.sizes, sorted(best.scales), sorted(best.aspect_ratios))


def _num_parameters(cfg: AnchorConfig) -> int:
    return len(cfg.sizes) + len(cfg.scales) - 1 + len(cfg.aspect_ratios)


def _scaled(cfg: AnchorConfig, number: int, factor: float) -> AnchorConfig:
    """Multiply one parameter. The parameters are the sizes, then all scales except the first, then the ratios."""
    values = [*cfg.sizes, *cfg.scales[1:], *cfg.aspect_ratios]
    values[number] *= factor
    scales_end = len(cfg.sizes) + len(cfg.scales) - 1
    scales = [cfg.scales[0], *values[len(cfg.sizes) : scales_end]]
    return _replaced(cfg, values[: len(cfg.sizes)], scales, values[scales_end:])


def _within_bounds(cfg: AnchorConfig) -> AnchorConfig:
    """Round all parameters and clamp them to the bounds. If the scales are too far apart, the lower bound wins."""
    ratios = [round(min(max(ratio, 1 / MAX_RATIO), MAX_RATIO), 2) for ratio in cfg.aspect_ratios]
    scales = [cfg.scales[0], *(max(round(scale, 2), 0.01) for scale in cfg.scales[1:])]
    limits = [(-(-MIN_STRIDES * stride // min(scales)), MAX_STRIDES * stride // max(scales)) for stride in cfg.strides]
    sizes = [max(min(round(size), most), least) for size, (least, most) in zip(cfg.sizes, limits, strict=True)]
    return _replaced(cfg, sizes, scales, ratios)


def _replaced(
    cfg: AnchorConfig, sizes: Sequence[float], scales: Sequence[float], aspect_ratios: Sequence[float]
) -> AnchorConfig:
    return AnchorConfig(
        strides=cfg.strides,
        sizes=tuple(map(float, sizes)),
        scales=tuple(scales),
        aspect_ratios=tuple(aspect_ratios),
        offset=cfg.offset,
        rounding=cfg.rounding,
    )
