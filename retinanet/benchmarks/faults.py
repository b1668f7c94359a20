"""Measure how much AP well-known mistakes cost: score a trained checkpoint with and without deliberate mistakes.

python -m retinanet.benchmarks.faults runs/quickstart/checkpoints/last.pt

Two mistakes are made only at inference: shifting anchors by half a stride, and swapping dx and dy. If made in training
too, they would just be different conventions. Each mistake in training needs its own run, with these config keys:
    model.prior=0.5 loss.classification.gamma=0      initial probability 0.5; easy anchors keep their weight
    assignment.ignore_ioa=0                          crowd regions count as background
"""

import sys

from torch import Tensor, nn

from retinanet.data.build import load_val_data
from retinanet.engine.evaluate import evaluate_dataset
from retinanet.inference.predictor import Predictor
from retinanet.structures import HeadOutputs


class Swapped(nn.Module):
    """A detector that swaps the predicted dx and dy."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> HeadOutputs:
        outputs = self.model(images, image_sizes)
        return outputs._replace(box_deltas=[deltas[..., [1, 0, 2, 3]] for deltas in outputs.box_deltas])


def score(checkpoint: str, overrides: list[str], swapped: bool) -> dict[str, float]:
    predictor = Predictor.from_checkpoint(checkpoint, overrides)
    cfg = predictor.cfg
    result = evaluate_dataset(
        cfg,
        Swapped(predictor.model) if swapped else predictor.model,
        load_val_data(cfg, predictor.class_names),
        device=predictor.device,
    )
    return result.scores.metrics


def main(argv: list[str]) -> None:
    cases = {
        "unchanged": ([], False),
        "anchors shifted by half a stride": (["model.anchors.offset=0.5"], False),
        "dx and dy swapped": ([], True),
    }
    for name, (overrides, swapped) in cases.items():
        metrics = score(argv[0], overrides, swapped)
        print(f"{name:32} AP {metrics['AP']:.3f}  AP50 {metrics['AP50']:.3f}  APs {metrics['APs']:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
