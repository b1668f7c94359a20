"""A checkpoint -> figures 1 and 4 of Lin et al. 2017, its scores, and where its loss on validation images comes from.

The last also for the checkpoints beside it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from retinanet.ablation.loss_share import (
    LogitCounts,
    LossParts,
    cumulative_share,
    loss_curve,
    loss_parts,
    score_shares,
    share_of_hardest,
)
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.data.build import build_eval_sampler, eval_loader, load_val_data
from retinanet.detection.build import build_assignment
from retinanet.errors import InputError, make_folder
from retinanet.inference.predictor import Predictor
from retinanet.runtime.console import progress
from retinanet.visualization.plots import Chart, Series, write_svg

log = logging.getLogger(__name__)

FIGURE_1_GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
FIGURE_4_GAMMAS = (0.0, 0.5, 1.0, 2.0)
HARDEST = (0.2, 0.01, 0.001)
PARTS = {"hard_positive": "hard positive", "easy_positive": "easy positive",
         "hard_negative": "hard negative", "easy_negative": "easy negative"}  # fmt: skip


def load_network(checkpoint: Path, overrides: Sequence[str] = ()) -> Predictor:
    """
    Raises:
        InputError: no checkpoint, or one whose classes are no sigmoids.
    """
    predictor = Predictor.from_checkpoint(checkpoint, ["inference.precision=fp32", *overrides])
    if predictor.cfg.model.class_activation != "sigmoid":
        raise InputError(f"{checkpoint}: its classes share a softmax; these figures are of one sigmoid a class")
    return predictor


@torch.no_grad()
def count_logits(checkpoint: Path, predictor: Predictor) -> LogitCounts:
    """Class logits of a trained network over its validation images, as its assignment sees them.

    Raises:
        InputError: no validation images, or no object on them.
    """
    cfg, counts = predictor.cfg, LogitCounts()
    data = load_val_data(cfg, predictor.class_names)
    assign = build_assignment(cfg.assignment)
    planned_batches = build_eval_sampler(cfg, data)
    batches = eval_loader(cfg, data, planned_batches, pin_memory=predictor.device.type == "cuda")
    for batch in progress(batches, f"{checkpoint.name}", len(planned_batches)):
        batch = batch.to(predictor.device)
        predictions = predictor.model(batch.images, batch.image_sizes)
        assignment = assign(predictions.anchors, batch.targets)
        counts.add(predictions, assignment, batch.targets)
    if not counts.positive.sum() or not counts.negative.sum():
        raise InputError(f"{checkpoint}: no positive anchor on the validation images; name others with data.val")
    return counts


def write_figures(checkpoint: Path, output: Path, overrides: Sequence[str] = ()) -> list[Path]:
    """Images, and `figures.md` with the numbers in them.

    The course of training is drawn where the checkpoint lies among others of its run: `train.keep_checkpoints` says
    how many a run keeps.

    Raises:
        InputError: as `load_network` and `count_logits` say.
    """
    network = load_network(checkpoint, overrides)
    make_folder(output)
    counts = count_logits(checkpoint, network)
    course = count_course(checkpoint, counts, overrides)
    pictures = {
        "figure_1.svg": figure_1(),
        "figure_4.svg": figure_4(counts),
        "scores.svg": [scores_chart(counts)],
    }
    if len(course) > 1:
        pictures["course.svg"] = course_charts(course)
    for name, charts in pictures.items():
        write_svg(charts, output / name)
    (output / "figures.md").write_text(describe(checkpoint, counts, course), encoding="utf-8")
    return [output / name for name in (*pictures, "figures.md")]


def count_course(checkpoint: Path, counts: LogitCounts, overrides: Sequence[str] = ()) -> dict[int, LogitCounts]:
    """By step, of every checkpoint that lies beside this one; none where they are fewer than two.

    Args:
        counts: those of this one.
    """
    files = CheckpointFolder(checkpoint.parent, keep=1).files()
    if len(files) < 2:
        return {}
    this = step_of(checkpoint.resolve())
    by_step = {step_of(file): file for file in files}
    return {
        step: counts if step == this else count_logits(file, load_network(file, overrides))
        for step, file in by_step.items()
    }


def step_of(file: Path) -> int | None:
    """By its name in a run folder; None under another name."""
    number = file.stem.removeprefix("step_")
    return int(number) if number.isdecimal() else None


def figure_1() -> list[Chart]:
    """The focal loss against p_t, and how steep it is in the logit, from the loss that training uses."""
    probabilities = [0.005 + 0.99 * index / 198 for index in range(199)]
    curves = {f"gamma {gamma:g}": loss_curve(gamma, probabilities) for gamma in FIGURE_1_GAMMAS}
    losses = [Series(name, *loss) for name, (loss, _) in curves.items()]
    slopes = [Series(name, *slope) for name, (_, slope) in curves.items()]
    x = "p_t, probability of the true class"
    return [
        Chart("Focal loss", x, "loss", losses, x_range=(0, 1), y_range=(0, 5), legend="right"),
        Chart("Its slope", x, "|d loss / d logit|", slopes, x_range=(0, 1), y_range=(0, 1.5), legend="right"),
    ]


def figure_4(counts: LogitCounts) -> list[Chart]:
    """Cumulative normalised loss, from the easiest example to the hardest."""
    charts = []
    for name, of_kind in {"positive": counts.positive, "negative": counts.negative}.items():
        series = [Series(f"gamma {gamma:g}", *cumulative_share(of_kind, gamma)) for gamma in FIGURE_4_GAMMAS]
        title = f"{int(of_kind.sum()):,} {name} examples"
        charts.append(Chart(title, f"share of {name} examples", "share of their loss", series, y_range=(0, 1)))
    return charts


def scores_chart(counts: LogitCounts) -> Chart:
    middles, positive, negative = score_shares(counts)
    series = [
        Series("own class of positive anchors", middles, positive),
        Series("every other class", middles, negative),
    ]
    title = "Scores on validation images"
    return Chart(title, "score", "share of examples", series, x_range=(0, 1), log_y=True, legend="right")


def course_charts(course: dict[int, LogitCounts]) -> list[Chart]:
    """Who has the loss on validation images, checkpoint by checkpoint.

    By cross entropy and by the paper's focal loss, whichever the network was trained with.
    """
    charts = []
    for title, alpha, gamma in (("Cross entropy", 0.5, 0.0), ("Focal loss, gamma 2, alpha 0.25", 0.25, 2.0)):
        parts = {step: loss_parts(counts, alpha=alpha, gamma=gamma) for step, counts in course.items()}
        series = [
            Series(name, list(parts), [getattr(part, field) for part in parts.values()])
            for field, name in PARTS.items()
        ]
        charts.append(Chart(title, "step", "share of the class loss", series, y_range=(0, 1.4)))
    return charts


def describe(checkpoint: Path, counts: LogitCounts, course: dict[int, LogitCounts]) -> str:
    """The numbers of the figures, in Markdown."""
    lines = [
        f"# Where the class loss of {checkpoint} comes from",
        "",
        "Share of the loss that the hardest examples have; an example is one logit of an anchor.",
        "",
        "| examples | gamma | " + " | ".join(f"hardest {100 * share:g} %" for share in HARDEST) + " |",
        "| --- |" + " ---: |" * (1 + len(HARDEST)),
    ]
    for name, of_kind in {"positive": counts.positive, "negative": counts.negative}.items():
        for gamma in FIGURE_4_GAMMAS:
            shares = (share_of_hardest(of_kind, gamma, hardest) for hardest in HARDEST)
            lines.append(f"| {name} | {gamma:g} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
    lines += ["", "## Over the course of training", ""]
    if not course:
        lines.append(
            "Not drawn: it needs two checkpoints in the folder, and a run keeps `train.keep_checkpoints` and the "
            "best. Train with, say, `train.keep_checkpoints=20` and a `train.save_every` that gives as many."
        )
        return "\n".join(lines) + "\n"
    lines += [
        f"Of the {len(course)} checkpoints that are kept, with their share of the whole class loss; hard is p_t < 0.5.",
        "",
        "| step | loss | " + " | ".join(PARTS.values()) + " |",
        "| ---: | --- |" + " ---: |" * len(PARTS),
    ]
    for step, of_step in course.items():
        for name, alpha, gamma in (("cross entropy", 0.5, 0.0), ("focal", 0.25, 2.0)):
            parts: LossParts = loss_parts(of_step, alpha=alpha, gamma=gamma)
            lines.append(f"| {step} | {name} | " + " | ".join(f"{part:.1%}" for part in parts) + " |")
    return "\n".join(lines) + "\n"
