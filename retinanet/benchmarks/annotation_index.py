"""Benchmark reading a large COCO annotation file: time and peak memory, with each call in its own process."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from retinanet.benchmarks.report import MIB, table
from retinanet.benchmarks.settings import Settings, SuiteResult
from retinanet.errors import InputError
from retinanet.runtime.console import progress

# As many as in COCO's instances_train2017.json, with polygons of about the same length.
NUM_IMAGES, NUM_BOXES, NUM_CATEGORIES = 118_000, 860_000, 80
MEAN_POINTS = 27  # per polygon
NUM_POLYGONS = 5_000  # distinct polygons
CROWD_SHARE = 0.01

OURS, CACHED, THEIRS, JSON = "ours, first time", "ours, from the cache", "pycocotools", "json.load"
# Imports are not timed, but their memory counts.
READ_COCO = (
    "from retinanet.config import DataSource\nfrom retinanet.formats.coco.reader import read_coco",
    "read = read_coco(DataSource(annotations=file, images='.')); count = len(read.boxes_xywh)",
)
CALLS = {
    OURS: READ_COCO,
    CACHED: READ_COCO,
    THEIRS: ("from pycocotools.coco import COCO", "count = len(COCO(file).anns)"),
    JSON: ("import json, numpy", "count = len(json.load(open(file))['annotations'])"),
}
# The resource module would also count the memory of the parent process.
CHILD = """
import contextlib, io, json, re, sys, time
{imports}
file = sys.argv[1]
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    {call}
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
print(json.dumps([seconds, peak * 1024, count]))
"""


def run(settings: Settings) -> SuiteResult:
    if not Path("/proc/self/status").exists():
        raise InputError("the index suite reads the peak memory of processes from /proc, which exists only on Linux")
    if settings.annotations is not None:
        return measure(settings.annotations, settings.rounds)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances.json"
        write_document(file, num_images=NUM_IMAGES, num_boxes=NUM_BOXES)
        return measure(file, settings.rounds)


def measure(file: Path, rounds: int) -> SuiteResult:
    with tempfile.TemporaryDirectory() as cache:
        call_in_process(CACHED, file, Path(cache))  # fills the cache
        return measure_calls(file, rounds, Path(cache))


def measure_calls(file: Path, rounds: int, cache: Path) -> SuiteResult:
    """Time the calls in turn; `cache` is a cache folder that contains the file."""
    results: dict[str, list[tuple[float, int, int]]] = {name: [] for name in CALLS}
    names = list(CALLS)
    bar = progress(None, "index", rounds * len(names))
    for number in range(rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            results[name].append(call_in_process(name, file, cache))
            bar.update()
    bar.close()
    counts = {result[2] for of_name in results.values() for result in of_name}
    if len(counts) != 1:
        raise RuntimeError(f"{counts} annotations were read: the variants did different work")

    seconds = {name: [result[0] for result in of_name] for name, of_name in results.items()}
    peaks = {name: statistics.median(result[1] for result in of_name) for name, of_name in results.items()}
    ratios = {
        "index_time_vs_pycocotools": _median_ratio(seconds[THEIRS], seconds[OURS]),
        "index_memory_vs_pycocotools": peaks[THEIRS] / peaks[OURS],
        "cached_index_time_vs_pycocotools": _median_ratio(seconds[THEIRS], seconds[CACHED]),
    }
    rows = [
        [name, f"{statistics.median(values):.2f}", f"{min(values):.2f}",
         f"{_median_ratio(values, seconds[OURS]):.2f}", f"{peaks[name] / MIB:.0f}", f"{peaks[name] / peaks[OURS]:.2f}"]
        for name, values in seconds.items()
    ]  # fmt: skip
    size = file.stat().st_size
    title = f"index: {size / 1e6:.0f} MB, {counts.pop()} annotations, one process per call"
    columns = ["", "median s", "min s", "/ ours", "peak MiB", "/ ours"]
    details = {"bytes": size, "rounds": {name: results[name] for name in names}}
    return SuiteResult(ratios, [table(title, columns, rows)], details)


def call_in_process(name: str, file: Path, cache: Path) -> tuple[float, int, int]:
    """Seconds, peak memory of the process in bytes, and number of annotations.

    Only CACHED uses `cache`; the other variants start with an empty cache folder.
    """
    imports, call = CALLS[name]
    command = [sys.executable, "-c", CHILD.format(imports=imports, call=call), str(file)]
    with tempfile.TemporaryDirectory() as empty:
        folder = str(cache) if name == CACHED else empty
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return tuple(json.loads(child.stdout))


def write_document(file: Path, *, num_images: int, num_boxes: int, seed: int = 0) -> None:
    """Write a COCO document of random objects with polygons, formatted like COCO's own files."""
    generator = np.random.default_rng(seed)
    polygons = []
    for _ in range(NUM_POLYGONS):
        points = 640 * generator.random(2 * (3 + generator.geometric(1 / (MEAN_POINTS - 3))))
        polygons.append("[" + ",".join(f"{value:.2f}" for value in points) + "]")
    runs = ",".join(map(str, generator.integers(1, 4000, 300).tolist()))
    images = [
        f'{{"license": 3,"file_name": "{number:012}.jpg","coco_url": "http://images.cocodataset.org/train2017/'
        f'{number:012}.jpg","height": 480,"width": 640,"date_captured": "2013-11-14 11:18:45","id": {number}}}'
        for number in range(1, num_images + 1)
    ]
    corners = generator.random((num_boxes, 4)) * (600, 440, 40, 40)
    image_ids = generator.integers(1, num_images + 1, num_boxes)
    category_ids = generator.integers(1, NUM_CATEGORIES + 1, num_boxes)
    which = generator.integers(0, NUM_POLYGONS, num_boxes)
    is_crowd = generator.random(num_boxes) < CROWD_SHARE
    with open(file, "w", encoding="ascii") as out:
        out.write('{"info": {"description": "synthetic"},"licenses": [{"id": 3}],"images": [' + ",".join(images))
        out.write('],"annotations": [')
        for row in range(num_boxes):
            x, y, w, h = corners[row].tolist()
            shape = f'{{"counts": [{runs}],"size": [480,640]}}' if is_crowd[row] else f"[{polygons[which[row]]}]"
            out.write(
                f'{"," if row else ""}{{"segmentation": {shape},"area": {w * h:.4f},"iscrowd": {int(is_crowd[row])},'
                f'"image_id": {image_ids[row]},"bbox": [{x:.2f},{y:.2f},{w:.2f},{h:.2f}],'
                f'"category_id": {category_ids[row]},"id": {row + 1}}}'
            )
        categories = [
            {"supercategory": "things", "id": number, "name": f"class {number}"}
            for number in range(1, NUM_CATEGORIES + 1)
        ]
        out.write('],"categories": ' + json.dumps(categories) + "}")


def _median_ratio(others: list[float], ours: list[float]) -> float:
    return statistics.median(other / own for other, own in zip(others, ours, strict=True))
