"""Recorded runs of a tenth of a second, with a backbone of three convolutions and a few small images."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.checkpoint.file import read_checkpoint
from retinanet.config import Config
from retinanet.data import loader
from retinanet.engine import evaluate, supervise
from retinanet.engine import train as loop
from retinanet.engine.step import TrainStep
from retinanet.errors import InputError
from retinanet.model import retinanet as network
from retinanet.runtime import device
from tests.helpers.backbones import ThreeConvolutions
from tests.helpers.metrics import metrics_without_times

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def write_tiny_dataset(folder: Path, *, seed: int = 0, last_is_damaged: bool = False, bits: int = 8) -> dict[str, str]:
    """Write six noise images of two shapes, and return their data source. With 16 bits, they are greyscale.

    The boxes include a crowd region and one clipped at the edge of its image; one image has no boxes.
    """
    random = np.random.default_rng(seed)
    images, annotations = [], []
    folder.mkdir()
    for number in range(1, 7):
        width, height = (48, 32) if number % 3 else (32, 48)
        file = folder / f"{number}.png"
        noise = random.integers(0, 2**bits - 1, (height, width, 3), dtype=np.uint8 if bits == 8 else np.uint16)
        Image.fromarray(noise if bits == 8 else noise[..., 0]).save(file)
        images.append({"id": number, "file_name": file.name, "height": height, "width": width})
        boxes = {2: [], 3: [[4, 4, 20, 30], [16, 20, 30, 20]]}.get(number, [[4 + number, 4, 22, 18 + number]])
        for box in boxes:
            annotations.append({"bbox": box, "image_id": number, "category_id": 1 + number % 2, "area": 300})
    annotations.append({"bbox": [0, 8, 30, 24], "image_id": 4, "category_id": 1, "area": 700, "iscrowd": 1})
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    if last_is_damaged:
        file.write_bytes(file.read_bytes()[:200])
    truth = folder.with_suffix(".json")
    truth.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return {"images": str(folder), "annotations": str(truth)}


@contextmanager
def recording(record: dict[str, Any]) -> Iterator[None]:
    """Record the behaviour of a run beyond its results, and use the tiny backbone."""
    results = ("detections", "scored in batches", "micro-batches", "compiled", "deterministic", "timeouts", "workers")
    record.update({name: [] for name in results})
    evaluate_dataset, eval_loader, backward = loop.evaluate_dataset, evaluate.eval_loader, TrainStep.backward

    def evaluating(*arguments: Any, **keywords: Any) -> Any:
        result = evaluate_dataset(*arguments, **keywords)
        record["detections"].append({i: [d.boxes, d.scores, d.labels] for i, d in result.detections.items()})
        return result

    def loading(*arguments: Any, **keywords: Any) -> Any:
        for batch in eval_loader(*arguments, **keywords):
            record["scored in batches"].append(len(batch.images))
            yield batch

    def stepping(step: TrainStep, batches: Any) -> Any:
        record["micro-batches"].append([len(batch.images) for batch in batches])
        record["deterministic"].append(torch.are_deterministic_algorithms_enabled())
        return backward(step, batches)

    def compiling(function: Any, **keywords: Any) -> Any:
        record["compiled"].append(function.__name__)
        return function

    class Loader(loader.DataLoader):
        def __init__(self, *arguments: Any, **keywords: Any):
            record["workers"].append(keywords["num_workers"])
            super().__init__(*arguments, **keywords)

    class StopRequest(supervise.StopRequest):
        def __init__(self, *arguments: Any, **keywords: Any):
            record["timeouts"].append(keywords["grace"])
            super().__init__(*arguments, **keywords)

    class Watchdog(supervise.Watchdog):
        def __init__(self, *arguments: Any, **keywords: Any):
            record["timeouts"].append(keywords["timeout"])
            super().__init__(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "build_backbone", lambda cfg, **_: ThreeConvolutions())
        patch.setattr(loop, "evaluate_dataset", evaluating)
        patch.setattr(evaluate, "eval_loader", loading)
        patch.setattr(TrainStep, "backward", stepping)
        patch.setattr(torch, "compile", compiling)
        patch.setattr(device, "missing_for_compiling", lambda _: None)
        patch.setattr(loader, "DataLoader", Loader)
        patch.setattr(supervise, "StopRequest", StopRequest)
        patch.setattr(supervise, "Watchdog", Watchdog)
        yield


def record_of_run(cfg: Config, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train, and return everything that depends on the config: metrics, weights, files, detections, or the error."""
    record: dict[str, Any] = {"error": None}
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with recording(record):
            result = loop.train(cfg, folder, resume=resume)
    except InputError as error:
        record["error"] = str(error)
        return record
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
    checkpoints = folder / "checkpoints"
    last = read_checkpoint(checkpoints / "last.pt")
    record["result"] = {"step": result.step, "stopped by": result.stopped_by, "best": result.best_metric}
    record["metrics"] = metrics_without_times(folder)
    record["weights"] = [dict(last.weights(average=average)) for average in (False, True)]
    record["files"] = {path.name: path.resolve().name for path in sorted(checkpoints.glob("*.pt"))}
    return record
