"""Check a config and its data before training, and collect all results in one report."""

from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch

from retinanet.config import Config
from retinanet.config.load import with_overrides
from retinanet.data.build import load_train_data, load_val_data
from retinanet.doctor.anchor_proposal import AnchorProposal
from retinanet.doctor.anchors import AnchorReport, match_quality
from retinanet.doctor.channels import ChannelStatistics, recommend_statistics
from retinanet.doctor.images import check_images
from retinanet.doctor.recommend import describe_machine, recommend
from retinanet.doctor.recommendation import Recommendation
from retinanet.doctor.views import ImageViews, View, choose_images, training_views, transform_views
from retinanet.errors import InputError
from retinanet.formats.checks.plausibility import check_objects, check_overlap
from retinanet.formats.dataset import Dataset
from retinanet.formats.findings import Finding, report
from retinanet.formats.read import NoUsableImages
from retinanet.runtime.console import progress

NUM_VIEWED = 6  # images on the page, each shown in several epochs
SEVERITIES = ("error", "warning", "note")
MAX_HEADERS = 20_000  # images per dataset whose headers are read before training, which takes seconds
MANY_UNMATCHED = 0.01  # fraction of objects without an anchor above which this is a warning


@dataclass(kw_only=True)
class CheckReport:
    """The results of a check."""

    name: str  # of the config or the data
    cfg: Config
    datasets: dict[str, Dataset] = field(default_factory=dict)  # "train" and "val", unless they cannot be read
    findings: list[Finding] = field(default_factory=list)  # the most severe first
    channels: ChannelStatistics | None = None  # of the training images, if they were decoded
    anchors: AnchorReport | None = None  # of the training set
    proposal: AnchorProposal | None = None  # at the recommended image size
    recommendations: list[Recommendation] = field(default_factory=list)
    views: list[ImageViews] = field(default_factory=list)  # training images as the network sees them
    transforms: list[View] = field(default_factory=list)  # images under each transform alone
    command: str = ""  # trains with the recommended settings

    @property
    def has_errors(self) -> bool:
        """Whether training would fail, or learn the wrong thing."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each severity."""
        return {severity: sum(finding.severity == severity for finding in self.findings) for severity in SEVERITIES}


def check(
    cfg: Config,
    *,
    name: str,
    device: torch.device,
    decode: bool = True,
    draw: bool = True,
    silent: bool = False,
) -> CheckReport:
    """Check everything that training with this config would read. No file is changed.

    Args:
        name: name of the config or the data in the report.
        device: the device to recommend settings for.
        decode: decode all images; see `check_images`.
        draw: draw images as the network sees them.
        silent: show no progress.
    """
    datasets, findings = read_datasets(cfg)
    images = check_images(datasets, cfg, decode=decode, silent=silent)
    findings += images.findings
    result = CheckReport(name=name, cfg=cfg, datasets=datasets, findings=findings, channels=images.channels)
    train = datasets.get("train")
    if train is not None and not train.is_crowd.all():
        with closing(progress(None, "examining anchors", 2, silent=silent)) as bar:  # takes a minute for large datasets
            advice = recommend(train, cfg, describe_machine(device))
            bar.update()
            result.recommendations, result.proposal = advice
            differs = advice.changes_objects_or_levels
            result.anchors = match_quality(train, cfg) if differs else advice.proposal.before
            bar.update()
        shown = cfg  # as the network sees the images
        if images.channels is not None:
            statistics = recommend_statistics(images.channels, cfg.model)
            result.recommendations.append(statistics)
            if not cfg.model.has_statistics:
                shown = with_overrides(cfg, statistics.lines, source="recommended mean and standard deviation")
        findings += check_anchors(result.anchors)
        if draw:
            chosen = choose_images(result.anchors, train, NUM_VIEWED, unusable=images.unusable["train"])
            try:
                result.views = training_views(shown, train, chosen)
                result.transforms = transform_views(shown, train, chosen)
            except InputError as error:  # if most images cannot be used
                findings.append(Finding("error", "unreadable_images", "data.train", str(error)))
    if not decode:  # otherwise detected by content
        findings += _check_overlap(datasets)
    result.findings = sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity))
    return result


def check_before_training(cfg: Config, *, decode: bool, silent: bool = False) -> list[Finding]:
    """Check the images of a run before it starts.

    Args:
        decode: decode all images. False reads the headers of at most `MAX_HEADERS` images per dataset.
        silent: show no progress.

    Returns: findings about the images. Training itself logs those about annotations.

    Raises:
        InputError: training would fail, or learn the wrong thing; the message lists all errors.
    """
    datasets, findings = read_datasets(cfg)
    images = check_images(datasets, cfg, decode=decode, max_images=None if decode else MAX_HEADERS, silent=silent)
    report(finding for finding in [*findings, *images.findings] if finding.severity == "error")
    return [finding for finding in images.findings if finding.kind != "value_range"]


def read_datasets(cfg: Config) -> tuple[dict[str, Dataset], list[Finding]]:
    """Read the training and validation sets if possible; each line of an error becomes a finding."""
    datasets: dict[str, Dataset] = {}
    findings: list[Finding] = []
    try:
        datasets["train"] = load_train_data(cfg, findings)
    except InputError as error:
        findings += _unusable("data.train", error, findings)
    if not cfg.data.has_validation:
        message = "no validation set, so AP cannot be measured; set data.val, or data.val_fraction=0.1"
        return datasets, [*findings, Finding("note", "no_validation", "data.val", message)]
    is_config_fault = any(finding.where.startswith(("data.", "model.")) for finding in findings)
    if "train" not in datasets and (is_config_fault or not cfg.data.val):
        return datasets, findings  # the validation set has the same problem, or is part of the training set
    class_names = datasets["train"].class_names if "train" in datasets else None
    found: list[Finding] = []
    try:
        datasets["val"] = load_val_data(cfg, class_names, found)
        found += check_objects(datasets["val"], where="data.val", training=False)
    except InputError as error:
        found += _unusable("data.val", error, found)
    return datasets, list(dict.fromkeys([*findings, *found]))


def _unusable(key: str, error: InputError, found: list[Finding]) -> list[Finding]:
    """Return a finding that a dataset cannot be read, unless another finding gives the reason."""
    if isinstance(error, NoUsableImages) and any(finding.severity == "error" for finding in found):
        return []
    where, colon, message = str(error).partition(": ")
    first, *others = (message if colon else str(error)).split("\n  ")
    return [Finding("error", "unusable", where if colon else key, first, tuple(others))]


def _check_overlap(datasets: dict[str, Dataset]) -> list[Finding]:
    return check_overlap(datasets["train"], datasets["val"]) if len(datasets) == 2 else []


def check_anchors(anchors: AnchorReport) -> list[Finding]:
    """Report objects without a positive anchor."""
    total = anchors.total
    if not total.unmatched:
        return []
    share = total.unmatched / total.objects
    sides = anchors.placement.sides.prod(dim=1).sqrt().numpy()
    lost = sides[(anchors.num_positive == 0) & ~anchors.dataset.is_crowd]
    message = (
        f"{total.unmatched} of {total.objects} objects ({100 * share:.1f} %) get no anchor at this image size, so "
        f"they are not learned; their median size is {np.median(lost):.2g} pixels after the resize. See the "
        "recommended image size and anchors"
    )
    return [Finding("warning" if share >= MANY_UNMATCHED else "note", "no_anchor", "model.anchors", message)]
