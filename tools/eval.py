"""Score a checkpoint on a validation set: the twelve COCO figures, and AP per class."""

import argparse
import json
import math
import sys
from pathlib import Path

from retinanet.data.build import load_val_data
from retinanet.detection.losses import build_loss
from retinanet.detection.postprocess import Postprocess
from retinanet.engine.logger import start_logging
from retinanet.engine.train import CHECKPOINTS, evaluate_now
from retinanet.errors import exit_code
from retinanet.evaluation.coco import coco_results
from retinanet.inference.predictor import Predictor


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="eval",
        description=__doc__,
        epilog="example: eval runs/cells/checkpoints/best.pt data.val.images=test data.val.annotations=test.json",
    )
    result.add_argument("checkpoint", type=Path, help="a file that training wrote; it carries its config and classes")
    result.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes one key of that config")
    result.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where evaluation.json and detections.json are written (default: the run folder of the checkpoint)",
    )
    return result


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_intermixed_args(argv)

    def run() -> None:
        start_logging()
        predictor = Predictor.from_checkpoint(arguments.checkpoint, arguments.overrides)
        cfg = predictor.cfg
        data = load_val_data(cfg, predictor.class_names)
        result = evaluate_now(
            cfg,
            predictor.model,
            data,
            Postprocess(**cfg.postprocess.model_dump()),
            build_loss(cfg.loss),
            predictor.device,
            predictor.dtype,
        )
        print(result.scores.summary)
        width = max(map(len, data.class_names))
        print("\nAP per class")
        for name, value in result.scores.per_class.items():
            print(f"  {name:{width}}  {'no objects' if math.isnan(value) else f'{value:.3f}'}")
        output = arguments.output or run_folder(arguments.checkpoint)
        output.mkdir(parents=True, exist_ok=True)
        figures = result.scores.metrics | result.losses | {f"AP/{k}": v for k, v in result.scores.per_class.items()}
        figures = {name: None if math.isnan(value) else value for name, value in figures.items()}
        description = {"checkpoint": str(arguments.checkpoint), "annotations": [s.annotations for s in cfg.data.val]}
        (output / "evaluation.json").write_text(json.dumps(figures | description, indent=2) + "\n", encoding="utf-8")
        found = sorted((data.records[index].image_id, index) for index in result.detections)
        results = coco_results(((image_id, result.detections[index]) for image_id, index in found), data.category_ids)
        (output / "detections.json").write_text(json.dumps(results), encoding="utf-8")
        print(f"\nwritten: {output / 'evaluation.json'}, {output / 'detections.json'}")

    return exit_code(run)


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run a checkpoint lies in; its own folder where it was moved."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent


if __name__ == "__main__":
    sys.exit(main())
