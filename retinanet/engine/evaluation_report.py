"""Explain an evaluation: diagnose a low AP, and write the report page."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from retinanet.checkpoint.link import follow_link, read_link
from retinanet.checkpoint.saved import CHECKPOINT_NAME
from retinanet.config import Config
from retinanet.config.load import config_to_yaml
from retinanet.data.build import build_reader
from retinanet.doctor.anchors import match_quality
from retinanet.engine.evaluate_checkpoint import Evaluated
from retinanet.engine.metrics_log import read_metrics
from retinanet.engine.run_files import run_folder_of
from retinanet.evaluation.analysis import Analysis
from retinanet.evaluation.diagnosis import AnchorFit, Diagnosis, diagnose, needs_explanation
from retinanet.evaluation.errors import analyse_errors
from retinanet.evaluation.settings import settings_that_change_ap
from retinanet.formats.dataset import Dataset
from retinanet.inference.thresholds import completed
from retinanet.report.evaluation import build_report
from retinanet.report.evaluation_page import render_evaluation
from retinanet.report.runs import RunRecord
from retinanet.report.runs_charts import training_curves
from retinanet.visualization.draw import SHOWN_CHANNELS
from retinanet.visualization.html import write_page
from retinanet.visualization.plots import Chart

# Exact assignment takes seconds. If objects were independent, the share with a positive anchor would have a standard
# error of at most 3.6 points (0.5 / sqrt(200)).
ANCHOR_OBJECTS = 200


def anchor_fit(cfg: Config, data: Dataset) -> AnchorFit | None:
    """How well a config's anchors cover about `ANCHOR_OBJECTS` objects of a dataset; None without objects."""
    if data.is_crowd.all():
        return None
    found = match_quality(data, cfg, max_objects=ANCHOR_OBJECTS)
    return AnchorFit(1 - found.total.unmatched / found.total.objects, found.ceiling.metrics["AP"])


def recorded_ap(checkpoint: Path, data: Dataset) -> float | None:
    """AP recorded in training at the step of a checkpoint, as a mean over the classes with objects in a dataset.

    None if the checkpoint is not in its run folder, or was not evaluated at that step.
    """
    found = CHECKPOINT_NAME.fullmatch(follow_link(checkpoint).name)
    if found is None:
        return None
    names = [f"AP/{name}" for name, count in zip(data.class_names, data.object_counts(), strict=True) if count]
    for line in read_metrics(run_folder_of(checkpoint)):
        if line["kind"] == "eval" and line["step"] == int(found[1]):
            values = [line[name] for name in names if line.get(name) is not None]
            return fmean(values) if values else None
    return None


class Explanation(NamedTuple):
    """Possible causes of a low AP."""

    diagnoses: list[Diagnosis]  # empty if AP needs no explanation
    anchors: AnchorFit | None  # None: not measured, because it is not needed or the anchors are unknown


def explain(evaluated: Evaluated, *, with_anchors: bool) -> Explanation:
    """Diagnose an AP that is near zero, or far below the one recorded in training for the checkpoint.

    Args:
        with_anchors: measure how well the anchors cover the objects even if AP is not low.
    """
    data, source = evaluated.data, evaluated.source
    scores, detections, losses = evaluated.evaluation
    ap = scores.metrics["AP"]
    trained_ap = recorded_ap(Path(source["checkpoint"]), data) if "checkpoint" in source else None
    is_low = needs_explanation(ap, trained_ap)
    has_anchors = evaluated.is_of_network and not evaluated.cfg.custom.model  # known, as those of the config
    anchors = anchor_fit(evaluated.cfg, data) if has_anchors and (is_low or with_anchors) else None
    if not is_low:
        return Explanation([], anchors)
    diagnoses = diagnose(
        data,
        detections,
        ap=ap,
        trained_ap=trained_ap,
        loss=losses.get("loss"),
        anchors=anchors,
        min_score=evaluated.cfg.postprocess.min_score if evaluated.is_of_network else None,
    )
    return Explanation(diagnoses, anchors)


def facts_of_evaluation(evaluated: Evaluated) -> dict[str, str]:
    """The checkpoint, the data, the settings that change AP, and the channels that images show, by name."""
    facts = {"data": ", ".join(evaluated.source["annotations"])}
    if "checkpoint" in evaluated.source:
        path = Path(evaluated.source["checkpoint"])
        target = read_link(path)
        facts = {"checkpoint": str(path) + (f" ({target})" if target else ""), **facts}
    if evaluated.cfg.custom.described:
        facts["custom parts"] = ", ".join(evaluated.cfg.custom.described)
    if notes := settings_that_change_ap(evaluated.cfg):
        facts["note"] = "; ".join(notes)
    if evaluated.cfg.model.in_channels > 3:
        facts["shown"] = SHOWN_CHANNELS
    return facts


def write_report(
    file: Path,
    evaluated: Evaluated,
    analysis: Analysis,
    *,
    title: str,
    facts: Mapping[str, str],
    run_folder: Path | None,
    anchors: AnchorFit | None = None,
    begin: Callable[[str], object] = lambda phase: None,
) -> Analysis:
    """Analyse the errors of an evaluation, and write its report page.

    This takes up to a minute for 500,000 detections in 5,000 images.

    Args:
        title, facts: see `build_report`.
        run_folder: run whose training curves the page shows; None: no curves.
        begin: called with the name of each phase before it begins; an exception it raises ends the report.

    Returns: the analysis, with `largest_error` set.

    Raises:
        InputError: the file cannot be written.
    """
    cfg, data = evaluated.cfg, evaluated.data
    scores, detections, _ = evaluated.evaluation
    begin("analysing errors")
    errors = analyse_errors(
        data,
        detections,
        analysis.matches,
        thresholds=completed(analysis.thresholds),
        max_detections=cfg.evaluation.max_detections,
        anchor_ceiling=anchors and anchors.ceiling,
    )
    analysis = replace(analysis, largest_error=errors.tide.largest)
    begin("reading images for the report")
    reader = build_reader(cfg, data, [], seed=0)
    report = build_report(
        title=title,
        dataset=data,
        detections=detections,
        matches=analysis.matches,
        scores=scores,
        analysis=analysis,
        errors=errors,
        diagnoses=analysis.diagnoses,
        read_image=lambda index: reader.read(index).image,
        facts=facts,
        training=[] if run_folder is None else run_curves(run_folder),
        config=config_to_yaml(cfg) if evaluated.is_of_network else "",
    )
    begin("writing the report")
    write_page(render_evaluation(report), file)
    return analysis


def run_curves(folder: Path) -> list[Chart]:
    """The training curves of the run in a folder; none if there are no metrics."""
    return training_curves([RunRecord(name="", config={}, lines=read_metrics(folder))])  # one run needs no legend
