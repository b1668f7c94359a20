"""95 % intervals of AP, by resampling the images of a dataset."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from retinanet.evaluation.average_precision import average_precision, mean_over_classes
from retinanet.evaluation.matches import Matches

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A value and the limits of its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class BootstrapScores:
    """Average precisions in 0..1 with their intervals; NaN for classes without objects."""

    metrics: dict[str, Interval]  # "AP", "AP50", "AP75"
    per_class: dict[str, Interval]  # AP by class name, ordered by label
    per_class_ap50: dict[str, Interval]
    num_resamples: int


def bootstrap_scores(
    matches: Matches,
    class_names: Sequence[str],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> BootstrapScores:
    """Estimate how much AP would vary over other images from the same distribution.

    Each resample draws as many images as the dataset has, with replacement, and AP is accumulated again from their
    matches. The intervals do not cover the variation between training runs: see `significance` for that.

    Args:
        class_names: by label.
        progress: called with the number of finished parts and the total.
    """
    ones = np.ones((1, matches.num_images), dtype=np.uint16)
    weights = np.concatenate([ones, resampled_weights(matches.num_images, num_resamples, seed=seed)])
    values = average_precision(matches, weights, progress=progress)  # (1 + R, K, T), the original data first
    means = mean_over_classes(values)  # (1 + R, T)
    has_object = np.zeros((matches.num_classes, matches.num_images), dtype=bool)
    counted = ~matches.is_ignored_object
    has_object[matches.object_labels[counted], matches.object_images[counted]] = True
    num_images = np.count_nonzero(has_object, axis=1).tolist()
    at_50, at_75 = (int(np.argmin(np.abs(matches.iou_thresholds - iou))) for iou in (0.5, 0.75))
    overall = {"AP": means.mean(axis=1), "AP50": means[:, at_50], "AP75": means[:, at_75]}
    return BootstrapScores(
        metrics={name: _interval(column, int(has_object.any(axis=0).sum())) for name, column in overall.items()},
        per_class={
            name: _interval(values[:, label].mean(axis=1), num_images[label]) for label, name in enumerate(class_names)
        },
        per_class_ap50={
            name: _interval(values[:, label, at_50], num_images[label]) for label, name in enumerate(class_names)
        },
        num_resamples=num_resamples,
    )


def resampled_weights(num_images: int, num_resamples: int, *, seed: int) -> np.ndarray:
    """How often each image is drawn in each resample: (R, I) uint16."""
    random = np.random.default_rng(seed)
    weights = np.empty((num_resamples, num_images), dtype=np.uint16)
    for row in weights:
        row[:] = np.bincount(random.integers(0, num_images, num_images), minlength=num_images)
    return weights


def _interval(values: np.ndarray, num_images: int) -> Interval:
    """Bias-corrected percentile interval (Efron 1981), widened for few images (Hesterberg 2015, expanded percentile).

    AP is biased upwards, because interpolation takes the highest precision at each recall or beyond it. Resampling adds
    the same bias again, which shifts plain percentile intervals up: in 150 simulations of 400 images, the true AP of a
    rare class lay below 6.7 % of them and above 0.7 %; with the correction, below 3.3 % and above 2.0 %. Percentile
    intervals are also too narrow for few images, by the ratio of the normal quantile to Student's t times sqrt(n / (n -
    1)), which matters most for rare classes.

    Args:
        values: (1 + R,), the value of the original data, then those of the resamples.
        num_images: number of images with objects that count. One image gives no interval.
    """
    from scipy.special import ndtr, ndtri, stdtrit  # imported here because it is slow to import

    value, resampled = float(values[0]), values[1:][~np.isnan(values[1:])]
    if math.isnan(value) or num_images < 2 or not len(resampled):
        return Interval(value, math.nan, math.nan)
    below = np.mean(resampled < value) + np.mean(resampled == value) / 2
    least = 0.5 / len(resampled)
    shift = 2 * ndtri(np.clip(below, least, 1 - least))
    reach = stdtrit(num_images - 1, (1 + CONFIDENCE) / 2) * math.sqrt(num_images / (num_images - 1))
    low, high = np.quantile(resampled, ndtr([shift - reach, shift + reach])).tolist()
    return Interval(value, low, high)
