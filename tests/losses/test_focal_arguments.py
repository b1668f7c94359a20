"""`FocalLoss` rejects invalid, unused and ambiguous arguments and inputs."""

import math

import numpy as np
import pytest
import torch

from retinanet.losses.focal import FocalLoss, InverseFrequency, LabelWeights, focal_loss

INDEX = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"mode": 5},
            r"mode: found 5, expected 'softmax' or 'sigmoid'; the number of classes is no longer an argument",
        ),
        ({"mode": "multiclass"}, "mode: found 'multiclass', expected one of 'softmax', 'sigmoid'"),
        ({"gamma": -0.5}, r"gamma: found -0\.5, expected a finite number of at least 0"),
        *(({"gamma": wrong}, "gamma: found") for wrong in (math.nan, math.inf, None, "2", [1.0], True)),
        ({"reduction": "avg"}, "reduction: found 'avg', expected one of 'mean', 'sum', 'none'"),
        ({"ignore_index": None}, "ignore_index: found None, expected an integer"),
        ({"ignore_index": 1.0}, r"ignore_index: found 1\.0, expected an integer"),
        *(
            ({"label_smoothing": wrong}, r"label_smoothing: found .* expected a number in 0\.\.1")
            for wrong in (-0.1, 1.5)
        ),
        ({"normalizer": 0}, "normalizer: found 0, expected a finite number above 0"),
        ({"normalizer": math.nan}, "normalizer: found nan"),
        ({"normalizer": "pos", "mode": "sigmoid"}, "normalizer: found 'pos', expected one of 'positives'"),
        ({"normalizer": "positives"}, "normalizer: found 'positives' in softmax mode"),
        ({"normalizer": 3, "reduction": "sum"}, "normalizer: found 3 with reduction 'sum', expected None"),
        ({"alpha": -1}, "alpha: found -1, expected finite weights of at least 0"),
        ({"alpha": -1, "mode": "sigmoid"}, "alpha: found -1, .*at least 0; for no weights, use None"),
        (
            {"alpha": [0.5, 2.0], "mode": "sigmoid"},
            r"alpha: found \[0\.5, 2\.0\], expected .*0\.\.1 .*LabelWeights\(w\)",
        ),
        *(
            ({"alpha": [1.0, wrong, 2.0]}, "expected finite weights of at least 0")
            for wrong in (-0.5, math.nan, math.inf)
        ),
        *(
            ({"alpha": wrong}, "expected a number or one weight per class")
            for wrong in ("abc", [0.2, None], {"a": 1.0}, [[1.0], [2.0]], [1j, 1.0], torch.ones(3, 1), [], True)
        ),
        ({"alpha": 2.0, "mode": "sigmoid"}, r"alpha: found 2\.0, .* A weight w above 1 is ambiguous"),
        ({"alpha": LabelWeights([1.0, 2.0])}, "in softmax mode, which has no labels 0 to weight"),
        ({"alpha": LabelWeights(-1), "mode": "sigmoid"}, "positive: found -1, expected finite weights of at least 0"),
        ({"alpha": LabelWeights(1, [1.0, math.nan]), "mode": "sigmoid"}, r"negative: found \[1\.0, nan\]"),
        ({"alpha": LabelWeights(None), "mode": "sigmoid"}, "positive: found None, expected a number"),
        *(({"alpha": InverseFrequency(wrong)}, "counts: found") for wrong in ([], [0, 0], [1, -1], [1, math.nan])),
    ],
)
def test_invalid_and_unused_arguments_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        FocalLoss(**settings)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (
            torch.zeros(2, 1),
            INDEX,
            r"logits: found shape \(2, 1\), .*: a softmax over one class is always 1; .* mode='sigmoid'",
        ),
        (torch.tensor(0.0), INDEX, r"logits: found shape \(\), expected \(N, C\)"),
        (torch.zeros(2, 3, dtype=torch.int64), INDEX, "logits: found torch.int64, expected a float type"),
        (np.zeros((2, 3)), INDEX, r"logits: found ndarray, expected a torch\.Tensor"),
        (torch.zeros(2, 3), [0, 1], r"targets: found list, expected a torch\.Tensor"),
        (torch.zeros(2, 3), INDEX[:1], r"targets: found shape \(1,\), expected \(2,\) for class indices"),
        (torch.zeros(2, 3, 5), INDEX, r"targets: found shape \(2,\), expected \(2, 5\) for class indices"),
        (torch.zeros(2, 3), torch.rand(2), r"targets: found shape \(2,\), expected \(2, 3\) for soft labels"),
        (torch.zeros(2, 3), INDEX.bool(), "targets: found torch.bool, expected class indices"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"targets: found values in 0\.\.3, expected 0\.\.2, or -100"),
        (torch.zeros(2, 3), torch.full((2, 3), 1.5), r"targets: found values in 1\.5\.\.1\.5, expected 0\.\.1"),
        (torch.zeros(2, 3), torch.full((2, 3), math.nan), "targets: found values in nan"),
        (torch.zeros(2, 3), torch.rand(2, 3, requires_grad=True), r"targets: .*; pass targets\.detach\(\)"),
    ],
)
def test_invalid_inputs_are_rejected_in_softmax_mode(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        focal_loss(logits, targets)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(2, 1), INDEX, r"which is ambiguous: .* targets\.unsqueeze\(1\) or logits\.squeeze\(1\)"),
        (torch.zeros(2, 3), torch.rand(2), r"expected \(2, 3\) for labels in 0\.\.1, or \(2,\) for class indices"),
        (torch.zeros(2, 3), torch.tensor([0, 4]), r"targets: found values in 0\.\.4, expected 0\.\.3, or -100"),
        (torch.zeros(2, 3), torch.full((2, 3), 2), r"targets: found values in 2\.\.2, expected 0\.\.1"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.complex64), "expected an integer, float or bool type"),
    ],
)
def test_invalid_inputs_are_rejected_in_sigmoid_mode(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        focal_loss(logits, targets, "sigmoid")


@pytest.mark.parametrize(
    ("mode", "targets", "settings", "message"),
    [
        ("softmax", torch.rand(2, 3), {"ignore_index": 255}, "ignore_index: found 255 with soft labels"),
        ("sigmoid", torch.rand(2, 3), {"ignore_index": 0}, "ignore_index: found 0, which is a label"),
        ("softmax", INDEX, {"alpha": [1, 2]}, "alpha: found 2 weights for 3 classes; pass one per class"),
        ("sigmoid", INDEX, {"alpha": [0.1, 0.2]}, "alpha: found 2 weights for 3 classes"),
        ("sigmoid", INDEX, {"alpha": LabelWeights(2, [1, 2, 3, 4])}, "alpha: found 4 weights for 3 classes"),
    ],
)
def test_arguments_that_the_targets_do_not_use_are_rejected(mode, targets, settings, message):
    with pytest.raises(ValueError, match=message):
        focal_loss(torch.zeros(2, 3), targets, mode, **settings)


def test_a_weight_per_class_needs_a_class_dimension():
    with pytest.raises(ValueError, match="which have no class dimension"):
        focal_loss(torch.zeros(3), torch.rand(3), "sigmoid", alpha=[0.1, 0.2, 0.3])


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_alpha_may_be_a_list_tuple_array_or_tensor_and_is_copied(kind):
    given = kind([0.25, 0.5, 2.0])
    loss = FocalLoss(alpha=given)
    if not isinstance(given, tuple):
        given[0] = 9.0
    assert loss.alpha == (0.25, 0.5, 2.0)
    assert FocalLoss(alpha=np.float32(0.5), gamma=np.float64(1)).alpha == 0.5


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_targets_may_have_any_integer_type(dtype):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 2, 1, 2])
    for mode in ("softmax", "sigmoid"):
        for gamma in (0, 2):
            result = focal_loss(logits, targets.to(dtype), mode, gamma=gamma)
            assert torch.equal(result, focal_loss(logits, targets, mode, gamma=gamma))
    labels = torch.tensor([[0, 1, 1]] * 4)
    assert torch.equal(focal_loss(logits, labels.to(dtype), "sigmoid"), focal_loss(logits, labels, "sigmoid"))
