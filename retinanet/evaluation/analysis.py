"""Analyse an evaluation: results of each class, intervals, a comparison, and the main conclusion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retinanet.evaluation.average_precision import average_precision
from retinanet.evaluation.bootstrap import BootstrapScores, bootstrap_scores
from retinanet.evaluation.class_results import ClassResult
from retinanet.evaluation.compare import PairedComparison, compare_detections
from retinanet.evaluation.curves import precision_recall_curves
from retinanet.evaluation.diagnosis import Diagnosis
from retinanet.evaluation.main_finding import main_finding
from retinanet.evaluation.matches import Matches, match_detections
from retinanet.evaluation.operating_points import BEST_F1, Requirement, operating_point
from retinanet.evaluation.selection import ALL_SIZES
from retinanet.evaluation.tide import ErrorKind
from retinanet.formats.dataset import Dataset
from retinanet.runtime.console import counted_progress
from retinanet.structures import Detections

LEAST_RESAMPLES = 100  # of a comparison: without them, it has no p-value


@dataclass(frozen=True, eq=False, kw_only=True)
class Analysis:
    """Results of each class, by label, and the conclusions."""

    classes: tuple[ClassResult, ...]
    requirement: Requirement  # of the operating points
    intervals: BootstrapScores | None
    comparison: PairedComparison | None  # relative to the other model
    are_thresholds_stored: bool  # in the checkpoint
    diagnoses: tuple[Diagnosis, ...]  # causes of a low AP, the most likely one first
    matches: Matches
    largest_error: ErrorKind | None = None  # the kind of error that costs the most AP50; None: not computed

    @property
    def finding(self) -> str:
        """The main conclusion, in one sentence."""
        return main_finding(
            self.classes,
            num_images=self.matches.num_images,
            num_detections=len(self.matches.scores),
            ap_interval=self.intervals and self.intervals.metrics["AP"],
            are_thresholds_stored=self.are_thresholds_stored,
            diagnoses=self.diagnoses,
            largest_error=self.largest_error,
        )

    @property
    def thresholds(self) -> list[float | None]:
        """Score threshold of each class, None where no threshold meets the requirement."""
        return [result.point.threshold if result.point else None for result in self.classes]

    def as_json(self) -> dict[str, Any]:
        """The analysis as JSON values, except that NaN is kept."""
        classes = [
            {
                "name": result.name,
                "objects": result.num_objects,
                "AP": result.ap,
                "AP_interval": result.ap_interval and [result.ap_interval.low, result.ap_interval.high],
                "AP50": result.ap50,
                "operating_point": result.point and result.point._asdict(),
            }
            for result in self.classes
        ]
        values: dict[str, Any] = {"classes": classes, "operating_points": str(self.requirement)}
        if self.intervals is not None:
            values["intervals"] = {
                name: [interval.low, interval.high] for name, interval in self.intervals.metrics.items()
            }
            values["resamples"] = self.intervals.num_resamples
        if self.comparison is not None:
            values["comparison"] = {
                "difference": self.comparison.difference.value,
                "interval": [self.comparison.difference.low, self.comparison.difference.high],
                "p": self.comparison.p,
                "sentence": self.comparison.sentence,
            }
        values["diagnoses"] = [diagnosis._asdict() for diagnosis in self.diagnoses]
        return values | {"finding": self.finding}


def analyse(
    dataset: Dataset,
    detections: Mapping[int, Detections],
    *,
    other: Mapping[int, Detections] | None = None,
    names: tuple[str, str] = ("A", "B"),
    max_detections: int | None = None,
    sizes: tuple[float, float] = ALL_SIZES,
    requirement: Requirement = BEST_F1,
    num_resamples: int = 1000,
    are_thresholds_stored: bool = False,
    diagnoses: Sequence[Diagnosis] = (),
) -> Analysis:
    """Analyse detections on a dataset.

    Args:
        dataset, detections, max_detections, sizes: see `match_detections`.
        other: detections of another model on the same dataset, for a comparison.
        names: names of this model and the other one, for the sentence about the comparison.
        requirement: what the operating points must achieve.
        num_resamples: number of bootstrap resamples for the intervals; 0 skips the intervals. The comparison uses at
            least `LEAST_RESAMPLES`, because its p-value needs them.
        are_thresholds_stored, diagnoses: see `main_finding`.
    """
    matches = match_detections(dataset, detections, max_detections=max_detections, sizes=sizes)
    intervals = None
    if num_resamples:
        with counted_progress("resampling images") as progress:
            intervals = bootstrap_scores(matches, dataset.class_names, num_resamples=num_resamples, progress=progress)
    ap = average_precision(matches, np.ones((1, len(dataset))))[0]  # (K, T)
    classes = tuple(
        ClassResult(
            name=name,
            num_objects=curve.num_objects,
            ap=float(ap[label].mean()),
            ap50=float(ap[label, 0]),
            point=operating_point(curve, requirement),
            ap_interval=intervals and intervals.per_class.get(name),
        )
        for label, (name, curve) in enumerate(zip(dataset.class_names, precision_recall_curves(matches), strict=True))
    )
    comparison = None
    if other is not None:
        other_matches = match_detections(dataset, other, max_detections=max_detections, sizes=sizes)
        with counted_progress("comparing") as progress:
            comparison = compare_detections(
                dataset,
                other_matches,
                matches,
                names=(names[1], names[0]),
                num_resamples=max(num_resamples, LEAST_RESAMPLES),
                progress=progress,
            )
    return Analysis(
        classes=classes,
        requirement=requirement,
        intervals=intervals,
        comparison=comparison,
        are_thresholds_stored=are_thresholds_stored,
        diagnoses=tuple(diagnoses),
        matches=matches,
    )
