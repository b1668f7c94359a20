"""Score a checkpoint on its validation set: the twelve COCO metrics, and AP per class."""

import argparse
import json
import math
from pathlib import Path

from retinanet.cli.exit_codes import exit_code
from retinanet.data.build import load_val_data
from retinanet.engine.evaluate import evaluate_dataset
from retinanet.engine.run_folder import CHECKPOINTS
from retinanet.errors import make_folder
from retinanet.formats.coco import coco_results
from retinanet.inference.predictor import Predictor
from retinanet.losses.detection import build_loss
from retinanet.runtime.distributed import is_main, on_main, process_group
from retinanet.runtime.logging import start_logging


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="retinanet eval",
        description=__doc__,
        epilog="example: retinanet eval runs/cells/checkpoints/best.pt postprocess.nms_iou=0.6",
    )
    result.add_argument("checkpoint", type=Path, help="checkpoint of a training run; it holds its config and classes")
    result.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of that config")
    result.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for evaluation.json and detections.json (default: the run folder of the checkpoint)",
    )
    return result


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_intermixed_args(argv)
    return exit_code(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    predictor = Predictor.from_checkpoint(arguments.checkpoint, arguments.overrides)
    # Under torchrun the processes share the images.
    with process_group(predictor.device, timeout=predictor.cfg.train.stall_timeout):
        start_logging(silent=not is_main())
        score(predictor, arguments.checkpoint, arguments.output or run_folder(arguments.checkpoint))


def score(predictor: Predictor, checkpoint: Path, output: Path) -> None:
    """Evaluate, print the metrics, and write metrics and detections to a folder."""
    cfg = predictor.cfg
    data = load_val_data(cfg, predictor.class_names)
    on_main(lambda: make_folder(output))
    result = evaluate_dataset(
        cfg,
        predictor.model,
        data,
        criterion=build_loss(cfg.loss, num_classes=len(predictor.class_names)),
        device=predictor.device,
        dtype=predictor.dtype,
    )
    if result is None:  # not the main process
        return
    print(result.scores.summary)
    width = max(map(len, data.class_names))
    print("\nAP per class")
    for name, value in result.scores.per_class.items():
        print(f"  {name:{width}}  {'no objects' if math.isnan(value) else f'{value:.3f}'}")
    metrics = result.scores.metrics | result.losses | {f"AP/{k}": v for k, v in result.scores.per_class.items()}
    metrics = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    description = {"checkpoint": str(checkpoint), "annotations": [s.annotations for s in cfg.data.val]}
    (output / "evaluation.json").write_text(json.dumps(metrics | description, indent=2) + "\n", encoding="utf-8")
    by_id = sorted((int(data.image_ids[index]), found) for index, found in result.detections.items())
    (output / "detections.json").write_text(json.dumps(coco_results(by_id, data.category_ids)), encoding="utf-8")
    print(f"\nwritten: {output / 'evaluation.json'}, {output / 'detections.json'}")


def run_folder(checkpoint: Path) -> Path:
    """The run folder that holds a checkpoint, or the folder of the file if it was moved out of its run."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent
