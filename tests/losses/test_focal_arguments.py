"""`FocalLoss` rejects invalid arguments and inputs."""

import math

import numpy as np
import pytest
import torch

from retinanet.losses.focal import FocalLoss


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes: found 0, expected an integer of at least 2"),
        ({"num_classes": 1}, r"num_classes: found 1, expected .* single logit, use 2 and the logits \(0, x\)"),
        ({"num_classes": 2.0}, r"num_classes: found 2\.0, expected an integer"),
        ({"gamma": -0.5}, r"gamma: found -0\.5, expected a finite number of at least 0"),
        ({"gamma": math.nan}, "gamma: found nan"),
        ({"gamma": math.inf}, "gamma: found inf"),
        ({"reduction": "avg"}, "reduction: found 'avg', expected one of 'mean', 'sum', 'none'"),
        ({"alpha": [1.0, 2.0]}, r"alpha: found shape \(2,\), expected one weight for each of 3 classes"),
        ({"alpha": torch.ones(3, 1)}, r"alpha: found shape \(3, 1\)"),
        ({"alpha": [1.0, -0.5, 2.0]}, r"alpha: found \[1\.0, -0\.5, 2\.0\], expected finite weights of at least 0"),
        ({"alpha": -1}, "expected finite weights of at least 0"),
        ({"alpha": [1.0, math.nan, 2.0]}, "expected finite weights of at least 0"),
        ({"alpha": [1.0, math.inf, 2.0]}, "expected finite weights of at least 0"),
        ({"num_classes": True}, "num_classes: found True, expected an integer"),
        *(({"gamma": wrong}, "expected a finite number of at least 0") for wrong in (None, "2", [1.0], True)),
        *(
            ({"alpha": wrong}, "expected a number or one weight for each of 3 classes")
            for wrong in ("abc", [0.2, None, 1.0], {"a": 1.0}, [[1.0], [1.0, 2.0]], [1j, 1.0, 1.0])
        ),
    ],
)
def test_invalid_arguments_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        FocalLoss(**{"num_classes": 3, **settings})


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(3), torch.tensor([0]), r"logits: found shape \(3,\), expected \(N, 3\) or \(N, 3, d1, \.\.\.\)"),
        (torch.zeros(2, 4), torch.tensor([0, 1]), r"logits: found shape \(2, 4\), expected \(N, 3\)"),
        (
            torch.zeros(2, 3, dtype=torch.int64),
            torch.tensor([0, 1]),
            "logits: found torch.int64, expected a float type",
        ),
        (
            torch.zeros(2, 3),
            torch.tensor([0]),
            r"targets: found shape \(1,\), expected \(2,\) for logits of shape \(2, 3\)",
        ),
        (torch.zeros(2, 3, 5), torch.tensor([0, 1]), r"targets: found shape \(2,\), expected \(2, 5\)"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "targets: found torch.float32, expected class indices as one of"),
        (
            torch.zeros(2, 3),
            torch.tensor([False, True]),
            "targets: found torch.bool, expected .* as one of torch.int64",
        ),
        (torch.zeros(2, 3), [0, 1], r"targets: found list, expected a torch\.Tensor"),
        (np.zeros((2, 3)), torch.tensor([0, 1]), r"logits: found ndarray, expected a torch\.Tensor"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"targets: found values in 0\.\.3, expected 0\.\.2"),
        (torch.zeros(2, 3), torch.tensor([-100, 1]), r"targets: found values in -100\.\.1, expected 0\.\.2"),
    ],
)
def test_invalid_inputs_are_rejected(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        FocalLoss(3)(logits, targets)
