"""Speed against accuracy: AP and inference time of each row, as in figure 2 of the paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from retinanet.ablation.report import MISSING, RowReport, escape_cell, format_mean, summarise_table
from retinanet.ablation.results import RunResult, config_hash
from retinanet.ablation.table import Job, Row, Table
from retinanet.benchmarks.measure import Variant, compare
from retinanet.checkpoint.saved import saved_checkpoints
from retinanet.data.build import eval_shorter, load_val_data
from retinanet.engine.environment import environment_record
from retinanet.engine.run_files import CHECKPOINTS
from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor
from retinanet.visualization.plots import Chart, Series

IMAGES, ROUNDS = 8, 7


class RowSpeed(NamedTuple):
    """Backbone, image size and inference time of a row on this machine."""

    backbone: str
    shorter: int  # shorter side of the images, pixels
    milliseconds: float  # per image, median of the rounds


def measure_rows(jobs: Sequence[Job], results: dict[tuple[str, int], RunResult], folder: Path) -> dict[str, RowSpeed]:
    """Time each row from decoded image to final detections, one image at a time, in interleaved rounds.

    All rows use the same validation images. The weights come from the first finished run of each row, because NMS gets
    different candidates from an untrained network.

    Args:
        folder: the folder that contains the runs.

    Raises:
        InputError: none of the rows has a finished run with a checkpoint in `folder`.
    """
    predictors: dict[str, Predictor] = {}
    for job in jobs:
        result = results.get((job.row, job.seed))
        files = saved_checkpoints(folder / "runs" / config_hash(job.cfg) / CHECKPOINTS)
        if files and result and result.status == "finished" and job.row not in predictors:
            predictors[job.row] = Predictor.from_checkpoint(files[-1], [f"device={job.cfg.device}"])
    if not predictors:
        raise InputError(f"{folder / 'runs'}: no checkpoint of a finished run of these rows; train them here first")
    predictor = next(iter(predictors.values()))
    data = load_val_data(predictor.cfg, predictor.class_names).first(IMAGES)
    images = [predictor.read_image(path) for path in data.paths]

    def variant(name: str, network: Predictor) -> Variant:
        return Variant(name, lambda: list(network.predict(images, batch_size=1)))

    measured = compare(
        [variant(name, network) for name, network in predictors.items()],
        rounds=ROUNDS,
        device=predictor.device,
        what="inference",
    )
    return {
        name: RowSpeed(
            network.cfg.model.backbone.name,
            eval_shorter(network.cfg.data),
            1000 * measured[name].median / len(images),
        )
        for name, network in predictors.items()
    }


def speed_markdown(
    table: Table,
    setup: str,
    results: dict[tuple[str, int], RunResult],
    speeds: dict[str, RowSpeed],
    *,
    schedule: str,
    command: str,
) -> str:
    """Format our and the paper's AP and time of each row as Markdown, with times relative to the fastest row.

    Args:
        schedule: description of the training schedule.
        command: the command that timed the rows.
    """
    rows = _timed_rows(table, setup, results, speeds)
    fastest = min(speed.milliseconds for speed in speeds.values())
    published = [entry.row.paper_ms for entry in rows if entry.row.paper_ms]
    columns = ["", "AP", "ms per image", "ratio", *(["paper AP", "paper ms", "paper ratio"] if published else [])]
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    for entry in rows:
        milliseconds = speeds[entry.row.name].milliseconds
        paper = _paper_cells(entry.row, min(published)) if published else []
        cells = [
            escape_cell(entry.row.name),
            format_mean(entry.summaries["AP"], digits=1),
            f"{milliseconds:.1f}",
            f"{milliseconds / fastest:.2f}",
        ]
        lines.append("| " + " | ".join([*cells, *paper]) + " |")
    about = environment_record()
    machine = about["accelerator"] or f"a CPU with {about['cpu_capability']}, {about['threads']} threads"
    parts = [
        f"# Speed against accuracy: {table.title}",
        f"Setup `{setup}`, {schedule}.",
        f"`{command}`",
        "\n".join(lines),
        f"Time from the decoded image to its detections, one image at a time: median of {ROUNDS} interleaved "
        f"rounds over {IMAGES} validation images, on {machine}. Ratios are relative to the fastest row.",
    ]
    return "\n\n".join(parts) + "\n"


def _timed_rows(
    table: Table, setup: str, results: dict[tuple[str, int], RunResult], speeds: dict[str, RowSpeed]
) -> list[RowReport]:
    """Reports of the rows that have both a score and a time."""
    return [row for row in summarise_table(table, setup, results).rows if row.ap and row.row.name in speeds]


def _paper_cells(row: Row, fastest: float) -> list[str]:
    ap = f"{row.paper['AP']:.1f}" if "AP" in row.paper else MISSING
    return [ap, *([f"{row.paper_ms:g}", f"{row.paper_ms / fastest:.2f}"] if row.paper_ms else [MISSING, MISSING])]


def speed_charts(
    table: Table, setup: str, results: dict[tuple[str, int], RunResult], speeds: dict[str, RowSpeed]
) -> list[Chart]:
    """Plot AP against inference time, one line per backbone, and the same for the paper if it reports times.

    Times are relative to the fastest row of each chart, which makes different machines comparable.
    """
    rows = _timed_rows(table, setup, results, speeds)
    by_backbone: dict[str, list[RowReport]] = {}
    for entry in sorted(rows, key=lambda entry: speeds[entry.row.name].shorter):
        by_backbone.setdefault(speeds[entry.row.name].backbone, []).append(entry)
    here = [
        Series(
            backbone,
            [speeds[entry.row.name].milliseconds for entry in entries],
            [entry.summaries["AP"].mean for entry in entries],
            spread=[0.0 if len(entry.ap) < 2 else entry.summaries["AP"].deviation for entry in entries],
        )
        for backbone, entries in by_backbone.items()
    ]
    short = " (short)" if table.setups[setup].short else ""
    charts = [_chart(f"{setup}{short}, this machine", here)]
    paper = [
        Series(backbone, [entry.row.paper_ms for entry in known], [entry.row.paper["AP"] for entry in known])
        for backbone, entries in by_backbone.items()
        if (known := [entry for entry in entries if entry.row.paper_ms and "AP" in entry.row.paper])
    ]
    if paper:
        charts.append(_chart("paper, COCO test-dev", paper))
    return charts


def _chart(title: str, lines: list[Series]) -> Chart:
    times = [milliseconds for line in lines for milliseconds in line.x]
    fastest = min(times, default=1.0)
    ratios = [line._replace(x=[milliseconds / fastest for milliseconds in line.x]) for line in lines]
    label = f"time per image / time of the fastest row ({fastest:.0f} ms)"
    return Chart(
        title, label, "AP, percent", ratios, x_range=(0, 1.1 * max(times, default=1.0) / fastest), legend="right"
    )
