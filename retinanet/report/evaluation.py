"""Content of the evaluation page: scores, the analyses that explain them, and the images to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from retinanet.evaluation.analysis import Analysis
from retinanet.evaluation.coco import CocoScores
from retinanet.evaluation.curves import PrecisionRecall, precision_recall_curves
from retinanet.evaluation.diagnosis import Diagnosis
from retinanet.evaluation.errors import ErrorReport
from retinanet.evaluation.image_errors import LabelError
from retinanet.evaluation.matches import Matches
from retinanet.formats.dataset import Dataset
from retinanet.report.images import ImageView, ReadImage, Reason, view_images
from retinanet.structures import Detections
from retinanet.visualization.plots import Chart

PER_GROUP = 8  # images shown of each group
WORST, BEST, SURPRISING, LABEL_ERRORS = "worst", "best", "surprising", "suspected label errors"
GROUPS = (WORST, LABEL_ERRORS, SURPRISING, BEST)
STRICT_IOU = 0.75  # of the second precision-recall curve


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationReport:
    """Everything that the evaluation page shows."""

    title: str  # the evaluated model, such as the path of a checkpoint
    facts: Mapping[str, str]  # by name: the dataset, the settings that change AP, and so on
    dataset: Dataset
    num_objects: int
    num_detections: int
    scores: CocoScores
    analysis: Analysis
    diagnoses: Sequence[Diagnosis]
    errors: ErrorReport
    curves: Sequence[PrecisionRecall]  # by label, at an IoU of 0.5
    strict_curves: Sequence[PrecisionRecall]  # by label, at `STRICT_IOU`
    images: Sequence[ImageView]
    training: Sequence[Chart]  # curves of the run
    config: str  # YAML


def build_report(
    *,
    title: str,
    dataset: Dataset,
    detections: Mapping[int, Detections],
    matches: Matches,
    scores: CocoScores,
    analysis: Analysis,
    errors: ErrorReport,
    diagnoses: Sequence[Diagnosis],
    read_image: ReadImage,
    facts: Mapping[str, str],
    training: Sequence[Chart] = (),
    config: str = "",
) -> EvaluationReport:
    """Collect the content of the page, and choose and read its images.

    Args:
        detections: keyed by image index, boxes in pixels of the original image.
        matches: of these detections with the dataset.
        read_image: returns the pixels (C, H, W) of the image at an index; raises `InputError` if it cannot be read.
        facts: further facts about the evaluation, by name.
        training: curves of the run that produced the weights.
        config: of the run, as YAML.
    """
    return EvaluationReport(
        title=title,
        facts=facts,
        dataset=dataset,
        num_objects=int(matches.object_counts().sum()),
        num_detections=len(matches.scores),
        scores=scores,
        analysis=analysis,
        diagnoses=diagnoses,
        errors=errors,
        curves=precision_recall_curves(matches),
        strict_curves=precision_recall_curves(matches, min_iou=STRICT_IOU),
        images=view_images(dataset, detections, matches, choose_images(dataset, errors), read_image),
        training=training,
        config=config,
    )


def choose_images(dataset: Dataset, errors: ErrorReport) -> dict[int, list[Reason]]:
    """Choose up to `PER_GROUP` images of each group, by dataset index; an image may belong to several groups."""
    reasons: dict[int, list[Reason]] = {}
    ranking = errors.ranking
    for group, indices in ((WORST, ranking.worst), (SURPRISING, ranking.surprising), (BEST, ranking.best)):
        for index in indices[:PER_GROUP]:
            image = errors.images[index]
            text = f"F1 {image.f1:.2f}, {image.missed} missed, {image.false_positives} false"
            if group == SURPRISING:
                text = f"{image.surprise:.1f} standard deviations fewer correct detections than its scores predict"
            reasons.setdefault(index, []).append(Reason(group, text))
    suspected: dict[int, list[LabelError]] = {}
    for error in errors.label_errors:
        suspected.setdefault(error.image_index, []).append(error)
    for index in list(suspected)[:PER_GROUP]:
        text = "; ".join(describe_label_error(dataset, error) for error in suspected[index][:3])
        reasons.setdefault(index, []).append(Reason(LABEL_ERRORS, text))
    return reasons


def describe_label_error(dataset: Dataset, error: LabelError) -> str:
    """Describe a suspected label error, such as "wrong class? annotated as cat, detected as dog with score 0.93"."""
    found = f"{dataset.class_names[error.label]} with score {error.score:.2f}"
    if error.object_row is None:
        return f"missing object? detected {found}"
    return f"wrong class? annotated as {dataset.class_names[dataset.labels[error.object_row]]}, detected as {found}"
