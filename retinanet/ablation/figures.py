"""Figures for a checkpoint: figures 1 and 4 of Lin et al. (2017), score histograms, and contributions to the loss.

If the folder contains several checkpoints of the run, the loss contributions are also plotted over training.
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
    score_histograms,
    share_of_hardest,
)
from retinanet.checkpoint.file import resolve_checkpoint
from retinanet.checkpoint.saved import saved_checkpoints
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
    """Load a checkpoint with sigmoid class scores, in float32.

    Raises:
        InputError: the file is not a checkpoint, or was trained with softmax class scores.
    """
    predictor = Predictor.from_checkpoint(checkpoint, ["inference.precision=fp32", *overrides])
    if predictor.cfg.model.has_background_logit:
        raise InputError(f"{checkpoint}: trained with model.class_activation: softmax, expected sigmoid")
    return predictor


@torch.no_grad()
def count_logits(checkpoint: Path, predictor: Predictor) -> LogitCounts:
    """Count the class logits of positive and negative examples over the validation images.

    Raises:
        InputError: there are no validation images, or none of their anchors are positive.
    """
    cfg, counts = predictor.cfg, LogitCounts()
    data = load_val_data(cfg, predictor.class_names)
    assign = build_assignment(cfg.assignment)
    planned_batches = build_eval_sampler(cfg, data)
    batches = eval_loader(cfg, data, planned_batches, pin_memory=predictor.device.type == "cuda")
    for batch in progress(batches, f"{checkpoint.name}", len(planned_batches)):
        batch = batch.to(predictor.device)
        outputs = predictor.model(batch.images, batch.image_sizes)
        assignment = assign(outputs.anchors, batch.targets)
        counts.add(outputs, assignment, batch.targets)
    if not counts.positive.sum() or not counts.negative.sum():
        raise InputError(
            f"{checkpoint}: no anchor is positive on the validation images; set data.val to images with objects"
        )
    return counts


def write_figures(checkpoint: Path, output: Path, overrides: Sequence[str] = ()) -> list[Path]:
    """Write the figures, and `figures.md` with their numbers; return the paths.

    The loss over training is plotted if the folder contains other checkpoints of the run (see
    `train.keep_checkpoints`).

    Raises:
        InputError: see `load_network` and `count_logits`.
    """
    network = load_network(checkpoint, overrides)
    make_folder(output)
    counts = count_logits(checkpoint, network)
    history = count_history(checkpoint, counts, overrides)
    charts_by_file = {
        "figure_1.svg": figure_1(),
        "figure_4.svg": figure_4(counts),
        "scores.svg": [scores_chart(counts)],
    }
    if len(history) > 1:
        charts_by_file["history.svg"] = history_charts(history)
    for name, charts in charts_by_file.items():
        write_svg(charts, output / name)
    (output / "figures.md").write_text(describe(checkpoint, counts, history), encoding="utf-8")
    return [output / name for name in (*charts_by_file, "figures.md")]


def count_history(checkpoint: Path, counts: LogitCounts, overrides: Sequence[str] = ()) -> dict[int, LogitCounts]:
    """Count logits for every checkpoint in the same folder, by step; empty for fewer than two checkpoints.

    Args:
        counts: the counts of `checkpoint` itself.
    """
    files = saved_checkpoints(checkpoint.parent)
    if len(files) < 2:
        return {}
    this = step_of(resolve_checkpoint(checkpoint))
    by_step = {step_of(file): file for file in files}
    return {
        step: counts if step == this else count_logits(file, load_network(file, overrides))
        for step, file in by_step.items()
    }


def step_of(file: Path) -> int | None:
    """The step in the name of a checkpoint file, or None for any other file."""
    number = file.stem.removeprefix("step_")
    return int(number) if number.isdecimal() else None


def figure_1() -> list[Chart]:
    """Focal loss and |derivative| as functions of p_t, computed with the loss used in training."""
    probabilities = [0.005 + 0.99 * index / 198 for index in range(199)]
    curves = {f"gamma {gamma:g}": loss_curve(gamma, probabilities) for gamma in FIGURE_1_GAMMAS}
    losses = [Series(name, loss.x, loss.y) for name, (loss, _) in curves.items()]
    derivatives = [Series(name, derivative.x, derivative.y) for name, (_, derivative) in curves.items()]
    x = "p_t, probability of the true class"
    return [
        Chart("Focal loss", x, "loss", losses, x_range=(0, 1), y_range=(0, 5), legend="right"),
        Chart("Derivative", x, "|d loss / d logit|", derivatives, x_range=(0, 1), y_range=(0, 1.5), legend="right"),
    ]


def figure_4(counts: LogitCounts) -> list[Chart]:
    """Cumulative fraction of the loss, from the easiest example to the hardest."""
    charts = []
    for name, kind_counts in {"positive": counts.positive, "negative": counts.negative}.items():
        curves = {gamma: cumulative_share(kind_counts, gamma) for gamma in FIGURE_4_GAMMAS}
        series = [Series(f"gamma {gamma:g}", curve.x, curve.y) for gamma, curve in curves.items()]
        title = f"{int(kind_counts.sum()):,} {name} examples"
        charts.append(Chart(title, f"share of {name} examples", "share of their loss", series, y_range=(0, 1)))
    return charts


def scores_chart(counts: LogitCounts) -> Chart:
    """Histograms of the scores of positive and of negative examples."""
    centers, positive, negative = score_histograms(counts)
    series = [
        Series("target class of positive anchors", centers, positive),
        Series("all other classes", centers, negative),
    ]
    title = "Scores on validation images"
    return Chart(title, "score", "share of examples", series, x_range=(0, 1), log_y=True, legend="right")


def history_charts(history: dict[int, LogitCounts]) -> list[Chart]:
    """Contributions of hard and easy examples to the validation loss of each checkpoint.

    Computed with cross entropy and with the paper's focal loss, regardless of the training loss.
    """
    charts = []
    for title, alpha, gamma in (("Cross entropy", 0.5, 0.0), ("Focal loss, gamma 2, alpha 0.25", 0.25, 2.0)):
        parts = {step: loss_parts(counts, alpha=alpha, gamma=gamma) for step, counts in history.items()}
        series = [
            Series(name, list(parts), [getattr(part, field) for part in parts.values()])
            for field, name in PARTS.items()
        ]
        charts.append(Chart(title, "step", "share of the class loss", series, y_range=(0, 1.4)))
    return charts


def describe(checkpoint: Path, counts: LogitCounts, history: dict[int, LogitCounts]) -> str:
    """Format the numbers behind the figures as Markdown."""
    lines = [
        f"# Where the class loss of {checkpoint} comes from",
        "",
        "Share of the loss that the hardest examples contribute. An example is one class logit of an anchor.",
        "",
        "| examples | gamma | " + " | ".join(f"hardest {100 * share:g}%" for share in HARDEST) + " |",
        "| --- |" + " ---: |" * (1 + len(HARDEST)),
    ]
    for name, kind_counts in {"positive": counts.positive, "negative": counts.negative}.items():
        for gamma in FIGURE_4_GAMMAS:
            shares = (share_of_hardest(kind_counts, gamma, hardest) for hardest in HARDEST)
            lines.append(f"| {name} | {gamma:g} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
    lines += ["", "## Over training", ""]
    if not history:
        lines.append(
            "Not available: this needs at least two checkpoints in the folder. To keep more, train with, for example, "
            "`train.keep_checkpoints=20`, and set `train.save_every` low enough to write that many."
        )
        return "\n".join(lines) + "\n"
    lines += [
        f"Shares of the class loss for the {len(history)} checkpoints in the folder. Hard examples have p_t < 0.5.",
        "",
        "| step | loss | " + " | ".join(PARTS.values()) + " |",
        "| ---: | --- |" + " ---: |" * len(PARTS),
    ]
    for step, step_counts in history.items():
        for name, alpha, gamma in (("cross entropy", 0.5, 0.0), ("focal", 0.25, 2.0)):
            parts: LossParts = loss_parts(step_counts, alpha=alpha, gamma=gamma)
            lines.append(f"| {step} | {name} | " + " | ".join(f"{part:.1%}" for part in parts) + " |")
    return "\n".join(lines) + "\n"
