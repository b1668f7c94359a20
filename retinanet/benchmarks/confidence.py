"""Check the coverage of the intervals of AP, and the false positive rate of the paired tests.

python -m retinanet.benchmarks.confidence [TRIALS] [IMAGES]

Each trial draws new images and detections from simulated detectors (default: 500 trials of 100 images). The truth is
the AP on 60,000 images.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from retinanet.benchmarks.simulated_detectors import Detector, simulate
from retinanet.evaluation.bootstrap import Interval, bootstrap_scores
from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.compare import PairedComparison, compare_detections
from retinanet.evaluation.matches import match_detections
from retinanet.evaluation.significance import SIGNIFICANCE_LEVEL

TRIALS, IMAGES = 500, 100
IMAGES_OF_TRUTH = 60_000
# Pairs of equally good detectors; in the second pair, their scores have different scales.
EQUAL = {"same scale of scores": (Detector(), Detector()), "other scale": (Detector(), Detector(score_power=3))}
BETTER = (Detector(), Detector(skill=0.4))


def true_scores(detector: Detector) -> dict[str, float]:
    """AP, AP50, AP75 and AP by class of a detector, on many images."""
    dataset, (detections,) = simulate(np.random.default_rng(0), IMAGES_OF_TRUTH, [detector])
    scores = score_detections(dataset, detections)
    return {name: scores.metrics[name] for name in ("AP", "AP50", "AP75")} | scores.per_class


def bootstrap_trial(seed: int, num_images: int, *, num_resamples: int = 1000) -> dict[str, Interval]:
    """Intervals of AP, AP50, AP75 and AP by class of one simulated dataset."""
    dataset, (detections,) = simulate(np.random.default_rng(seed), num_images)
    matches = match_detections(dataset, detections)
    scores = bootstrap_scores(matches, dataset.class_names, num_resamples=num_resamples, seed=seed)
    return scores.metrics | scores.per_class


def paired_trial(
    seed: int, num_images: int, pair: Sequence[Detector], *, num_resamples: int = 1000
) -> PairedComparison:
    """Comparison of two detectors on one simulated dataset."""
    dataset, detections = simulate(np.random.default_rng(seed), num_images, pair)
    first, second = (match_detections(dataset, found) for found in detections)
    return compare_detections(dataset, first, second, num_resamples=num_resamples, seed=seed)


def coverage(intervals: Sequence[Mapping[str, Interval]], truth: Mapping[str, float]) -> dict[str, float]:
    """Share of the defined intervals that contain the truth, by name."""
    result = {}
    for name, value in truth.items():
        defined = [trial[name] for trial in intervals if not np.isnan(trial[name].low)]
        result[name] = float(np.mean([interval.low <= value <= interval.high for interval in defined]))
    return result


def main(argv: list[str]) -> None:
    trials = int(argv[0]) if argv else TRIALS
    images = int(argv[1]) if len(argv) > 1 else IMAGES
    truth = true_scores(Detector())
    covered = coverage([bootstrap_trial(seed, images) for seed in range(trials)], truth)
    for name, share in covered.items():
        print(f"{name:9} truth {truth[name]:.3f}, in {share:.1%} of {trials} intervals", flush=True)
    for name, pair in EQUAL.items():
        p = [paired_trial(seed, images, pair).p for seed in range(trials)]
        print(f"equal pairs, {name}: {np.mean(np.array(p) < SIGNIFICANCE_LEVEL):.1%} false alarms", flush=True)
    gain = true_scores(BETTER[1])["AP"] - truth["AP"]
    results = [paired_trial(seed, images, BETTER) for seed in range(trials)]
    detected = np.mean([result.p < SIGNIFICANCE_LEVEL for result in results])
    contained = np.mean([result.difference.low <= gain <= result.difference.high for result in results])
    print(f"gain of {gain:.3f} AP: found in {detected:.1%} of pairs, in {contained:.1%} of intervals")


if __name__ == "__main__":
    main(sys.argv[1:])
