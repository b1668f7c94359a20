"""Check a config and its data before training, and collect everything that is found in one report."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from retinanet.config import Config
from retinanet.config.load import with_overrides
from retinanet.data.build import load_train_data, load_val_data
from retinanet.doctor.anchor_proposal import AnchorProposal, fit_anchors
from retinanet.doctor.anchors import AnchorReport, match_quality
from retinanet.doctor.images import check_images
from retinanet.doctor.recommend import Recommendation, describe_machine, recommend
from retinanet.doctor.views import View, choose_images, training_views
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.formats.findings import Finding
from retinanet.formats.plausibility import check_objects, check_overlap

NUM_VIEWS = 12
SEVERITIES = ("error", "warning", "note")


@dataclass(kw_only=True)
class CheckReport:
    """Everything that a check found."""

    name: str  # of the config or the data
    cfg: Config
    datasets: dict[str, Dataset] = field(default_factory=dict)  # "train" and "val", as far as they can be read
    findings: list[Finding] = field(default_factory=list)
    anchors: AnchorReport | None = None  # of the training set
    proposal: AnchorProposal | None = None  # if anchors were to be fitted
    recommendations: list[Recommendation] = field(default_factory=list)
    views: list[View] = field(default_factory=list)

    @property
    def has_errors(self) -> bool:
        """Whether training would fail, or learn the wrong thing."""
        return any(finding.severity == "error" for finding in self.findings)

    def sorted_findings(self) -> list[Finding]:
        """The findings, the most severe first."""
        return sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity))


def check(
    cfg: Config,
    *,
    name: str,
    device: torch.device,
    decode: bool = True,
    fit: bool = False,
    draw: bool = True,
    silent: bool = False,
) -> CheckReport:
    """Read everything that training with this config would read, and look for faults. No file is changed.

    Args:
        name: what the report calls the config.
        device: the device to recommend settings for.
        decode: decode all images; see `check_images`.
        fit: search for better anchors.
        draw: draw what the network sees.
        silent: show no progress.
    """
    report = CheckReport(name=name, cfg=cfg)
    with collecting(report.findings):
        _read(report)
    report.findings += check_images(report.datasets, cfg.data, decode=decode, silent=silent)
    train = report.datasets.get("train")
    if train is None or train.is_crowd.all():
        return report
    report.anchors = match_quality(train, cfg)
    report.findings += _check_anchors(report.anchors)
    if fit:
        report.proposal = fit_anchors(train, cfg)
    report.recommendations = recommend(train, cfg, describe_machine(device))
    if draw:
        try:
            report.views = training_views(cfg, train, choose_images(report.anchors, train, NUM_VIEWS))
        except InputError as error:
            report.findings.append(Finding("error", "unreadable_images", "data.train", str(error)))
    return report


def with_recommendations(cfg: Config, recommendations: list[Recommendation]) -> Config:
    """Apply the config lines of recommendations."""
    lines = [line for recommendation in recommendations for line in recommendation.lines]
    return with_overrides(cfg, lines, source="recommended settings")


def _read(report: CheckReport) -> None:
    """Read the datasets; what prevents that is a finding."""
    cfg, read = report.cfg, report.datasets
    try:
        read["train"] = load_train_data(cfg)
        if cfg.data.has_validation:
            read["val"] = load_val_data(cfg, read["train"].class_names)
    except InputError as error:
        key = "data.val" if "train" in read else "data.train"
        for line in str(error).split("\n  "):
            report.findings.append(Finding("error", "unusable", key, line))
        return
    if "val" not in read:
        message = "no validation set, so nothing measures the run; set data.val, or data.val_fraction=0.1"
        report.findings.append(Finding("note", "no_validation", "data.val", message))


def _check_anchors(report: AnchorReport) -> list[Finding]:
    total = report.total
    if not total.objects or not total.unmatched:
        return []
    share = total.unmatched / total.objects
    message = (
        f"{total.unmatched} of {total.objects} objects ({share:.1%}) get no anchor at this image size, so nothing "
        "learns them; see the recommended image size and anchors"
    )
    return [Finding("warning" if share >= 0.01 else "note", "no_anchor", "model.anchors", message)]


class _Collector(logging.Handler):
    def __init__(self, findings: list[Finding]):
        super().__init__()
        self.findings = findings

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and len(record.args) == 1 and isinstance(record.args[0], Finding):
            self.findings.append(record.args[0])
        elif record.levelno >= logging.WARNING:
            where, _, message = record.getMessage().partition(": ")
            self.findings.append(Finding("warning", "reading", where, message))


@contextmanager
def collecting(findings: list[Finding]) -> Iterator[None]:
    """Collect what readers log as findings, in place of logging it."""
    logger = logging.getLogger("retinanet")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    logger.handlers, logger.propagate = [_Collector(findings)], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
