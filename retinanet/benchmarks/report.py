"""Format measurements as text tables, and convert them to plain values for JSON."""

import statistics
from pathlib import Path
from typing import Any

import torch

from retinanet.benchmarks.measure import Measurement, Ratio, ratio
from retinanet.benchmarks.settings import Settings
from retinanet.engine.environment import environment_record

MIB = 2**20


def machine(settings: Settings) -> dict[str, Any]:
    """Describe the machine, versions and settings of a measurement, as plain values."""
    return {
        **environment_record(),
        "cpu": cpu_name(),
        "device": str(settings.device),
        "precision": precision_name(settings.dtype),
        "rounds": settings.rounds,
    }


def cpu_name() -> str:
    """CPU model name from /proc/cpuinfo, or "unknown CPU"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def precision_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def header(description: dict[str, Any]) -> str:
    packages = description["packages"]
    device = description["accelerator"] if description["device"].startswith("cuda") else description["device"]
    return "\n".join(
        [
            f"machine   {description['cpu']}, {description['cpu_capability']}, {description['threads']} threads; "
            f"device: {device}",
            f"versions  torch {packages['torch']}, torchvision {packages['torchvision']}, "
            f"Python {description['python']}",
            f"commit    {description['git_commit'] or 'unknown: not run from a source tree'}",
            f"precision {description['precision']}; {description['rounds']} rounds",
        ]
    )


def table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """Format a plain-text table, with the first column left-aligned and the others right-aligned."""
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]

    def line(cells: list[str]) -> str:
        first, *others = cells
        aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        return "  ".join([first.ljust(widths[0]), *aligned]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([title, line(columns), rule, *(line(row) for row in rows)])


def comparison_table(title: str, measured: dict[str, Measurement], *, ours: str, apart: tuple[str, ...] = ()) -> str:
    """Format a comparison of the variants. Those in `apart` compute something different, so they have no ratio."""
    rows = []
    for name, measurement in measured.items():
        is_compared = name not in (ours, *apart)
        versus = ratio(measurement, measured[ours]) if is_compared else None
        rows.append(
            [
                name,
                format_ms(measurement.median),
                format_ms(measurement.fastest),
                f"{versus.of_medians:.2f}" if versus else "",
                f"{versus.of_rounds:.2f}" if versus else "",
                "-" if measurement.peak_bytes is None else f"{measurement.peak_bytes / MIB:.1f}",
                "-" if measurement.host_reads is None else str(measurement.host_reads),
            ]
        )
    columns = ["", "median ms", "min ms", "/ ours", "by rounds", "peak MiB", "device syncs"]
    return table(title, columns, rows)


def format_ms(seconds: float) -> str:
    return f"{seconds * 1000:.4g}" if seconds < 1 else f"{seconds * 1000:.0f}"


def to_plain_values(measured: dict[str, Measurement], *, ours: str) -> dict[str, Any]:
    """Convert the measurements and ratios of the variants to plain values, including the time of every round."""
    result = {}
    for name, measurement in measured.items():
        versus: Ratio = ratio(measurement, measured[ours])
        result[name] = {
            "median_s": measurement.median,
            "min_s": measurement.fastest,
            "spread_s": statistics.pstdev(measurement.seconds),
            "rounds_s": measurement.seconds,
            "over_ours_by_medians": versus.of_medians,
            "over_ours_by_rounds": versus.of_rounds,
            "peak_bytes": measurement.peak_bytes,
            "host_reads": measurement.host_reads,
        }
    return result


def growth_table(title: str, what: str, measured: dict[str, dict[str, Measurement]]) -> str:
    """Format median time and peak memory for each value of a growing quantity, with a dash if not measured."""
    names = list(dict.fromkeys(name for row in measured.values() for name in row))
    rows = []
    for key, row in measured.items():
        cells = [key]
        for name in names:
            entry = row.get(name)
            peak = None if entry is None else entry.peak_bytes
            cells.append("-" if entry is None else format_ms(entry.median))
            cells.append("-" if peak is None else f"{peak / MIB:.1f}")
        rows.append(cells)
    return table(title, [what, *(f"{name} {unit}" for name in names for unit in ("ms", "MiB"))], rows)
