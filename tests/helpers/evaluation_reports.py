"""Reports of evaluations of generated datasets, with noise as images."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from retinanet.evaluation.analysis import analyse
from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.diagnosis import Diagnosis
from retinanet.evaluation.errors import analyse_errors
from retinanet.evaluation.matches import match_detections
from retinanet.formats.dataset import Dataset
from retinanet.report.evaluation import EvaluationReport, build_report
from retinanet.report.images import ReadImage
from retinanet.structures import Detections
from retinanet.visualization.plots import Chart


def noise_images(dataset: Dataset) -> ReadImage:
    """Read random pixels, which no JPEG file compresses well."""

    def read(index: int) -> Tensor:
        height, width = dataset.sizes[index].tolist()
        random = np.random.default_rng(index)
        return torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8))

    return read


def report_of(
    dataset: Dataset,
    detections: Mapping[int, Detections],
    *,
    title: str = "runs/a/best.pt",
    other: Mapping[int, Detections] | None = None,
    diagnoses: Sequence[Diagnosis] = (),
    facts: Mapping[str, str] | None = None,
    training: Sequence[Chart] = (),
    config: str = "",
    num_resamples: int = 20,
    default_threshold: float = 0.3,
) -> EvaluationReport:
    """The report of detections on a dataset, with images of noise."""
    matches = match_detections(dataset, detections)
    analysis = analyse(dataset, detections, other=other, num_resamples=num_resamples)
    thresholds = [default_threshold if threshold is None else threshold for threshold in analysis.thresholds]
    return build_report(
        title=title,
        dataset=dataset,
        detections=detections,
        matches=matches,
        scores=score_detections(dataset, detections),
        analysis=analysis,
        errors=analyse_errors(dataset, detections, matches, thresholds=thresholds),
        diagnoses=diagnoses,
        read_image=noise_images(dataset),
        facts=facts or {},
        training=training,
        config=config,
    )
