"""`focal_loss` under double autograd, `torch.func`, `torch.compile` and autocast; its memory and device reads."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from retinanet.benchmarks.measure import peak_memory
from retinanet.losses import chunking
from retinanet.losses.focal import FocalLoss, LabelWeights, focal_loss
from tests.helpers.gradients import value_and_gradient

# Mode, kind of target, settings: every kernel at least once.
CASES = [
    ("softmax", "index", {}),
    ("softmax", "index", {"gamma": 0.5, "alpha": [0.5, 1.0, 2.0]}),
    ("softmax", "index", {"label_smoothing": 0.1}),
    ("softmax", "soft", {"reduction": "sum"}),
    ("softmax", "index", {"gamma": 0}),
    ("sigmoid", "index", {"alpha": 0.25, "normalizer": "positives"}),
    ("sigmoid", "index", {"gamma": 0.5, "alpha": [0.1, 0.2, 0.9]}),
    ("sigmoid", "index", {"reduction": "none"}),
    ("sigmoid", "index", {"label_smoothing": 0.1}),
    ("sigmoid", "hard", {"alpha": 0.25}),
    ("sigmoid", "soft", {"gamma": 1.5, "alpha": LabelWeights([2.0, 3.0, 0.5])}),
    ("sigmoid", "index", {"gamma": 0}),
]


def make_case(mode, kind):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=random, dtype=torch.float64)
    soft = torch.rand(4, 3, generator=random, dtype=torch.float64)
    index = torch.tensor([0, 2, -100, 1 if mode == "softmax" else 3])
    return logits, {"index": index, "soft": soft, "hard": soft.round()}[kind]


@pytest.mark.parametrize(("mode", "kind", "settings"), CASES)
def test_first_and_second_derivatives_match_finite_differences(mode, kind, settings):
    logits, targets = make_case(mode, kind)
    loss = FocalLoss(mode, **settings)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), logits)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, targets), logits)


@pytest.mark.parametrize(("mode", "kind", "settings"), CASES)
def test_function_transforms_give_the_same_derivatives(mode, kind, settings):
    logits, targets = make_case(mode, kind)
    loss = FocalLoss(mode, **settings)

    def total(x):
        return loss(x, targets).sum()

    value, gradient = value_and_gradient(lambda x: loss(x, targets), logits)
    assert_close(torch.func.grad(total)(logits), gradient)
    jacobian = torch.autograd.functional.jacobian(lambda x: loss(x, targets), logits)
    assert_close(torch.func.jacrev(lambda x: loss(x, targets))(logits), jacobian)
    assert_close(torch.autograd.functional.jacobian(lambda x: loss(x, targets), logits, vectorize=True), jacobian)
    assert_close(torch.func.jvp(total, (logits,), (gradient,))[1], gradient.square().sum())
    hessian = torch.autograd.functional.hessian(total, logits)
    assert_close(torch.func.hessian(total)(logits), hessian)
    assert value.requires_grad is False


@pytest.mark.parametrize(("mode", "kind", "settings"), CASES)
def test_vmap_over_samples_gives_one_loss_and_gradient_per_sample(mode, kind, settings):
    logits, targets = make_case(mode, kind)
    loss = FocalLoss(mode, **settings)

    def of_sample(x, target):
        return loss(x[None], target[None]).sum()

    expected = [value_and_gradient(loss, x[None], target[None]) for x, target in zip(logits, targets, strict=True)]
    gradients, values = torch.func.vmap(torch.func.grad_and_value(of_sample))(logits, targets)
    assert_close(values, torch.stack([value.sum() for value, _ in expected]))
    assert_close(gradients, torch.cat([gradient for _, gradient in expected]))


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_gradient_penalty_has_a_gradient(mode):
    logits, targets = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 1, 2, 0, 1])
    (gradient,) = torch.autograd.grad(focal_loss(logits, targets, mode), logits, create_graph=True)
    (of_penalty,) = torch.autograd.grad(gradient.square().sum(), logits)
    assert gradient.requires_grad and of_penalty.abs().sum() > 0


@pytest.mark.parametrize(("mode", "kind", "settings"), CASES)
def test_compiles_as_one_graph_with_the_same_results(mode, kind, settings):
    torch.compiler.reset()
    logits, targets = make_case(mode, kind)
    loss = FocalLoss(mode, **settings)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(value_and_gradient(compiled, logits, targets), value_and_gradient(loss, logits, targets))


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_function_compiles_as_one_graph_with_the_same_results(mode):
    torch.compiler.reset()
    logits, targets = make_case(mode, "index")

    def function(x, target):
        return focal_loss(x, target, mode, gamma=0.5)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_close(value_and_gradient(compiled, logits, targets), value_and_gradient(function, logits, targets))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_compiles_to_native_code(mode):
    torch.compiler.reset()
    logits, targets = make_case(mode, "index")
    compiled = torch.compile(FocalLoss(mode), fullgraph=True)
    assert_close(
        value_and_gradient(compiled, logits.float(), targets),
        value_and_gradient(FocalLoss(mode), logits.float(), targets),
    )


@pytest.mark.parametrize(("mode", "kind", "settings"), CASES)
def test_autocast_changes_nothing(mode, kind, settings):
    logits, targets = make_case(mode, kind)
    expected = value_and_gradient(FocalLoss(mode, **settings), logits.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        result = value_and_gradient(FocalLoss(mode, **settings), logits.float(), targets)
    assert all(map(torch.equal, result, expected))


@pytest.mark.parametrize(("mode", "kind", "settings"), CASES)
def test_loss_never_waits_for_the_device(mode, kind, settings):
    with FakeTensorMode():
        logits = torch.empty(4, 3, device="cuda")
        targets = (
            torch.zeros(4, dtype=torch.int64, device="cuda") if kind == "index" else torch.empty(4, 3, device="cuda")
        )
        loss = FocalLoss(mode, **settings)(logits, targets)  # a fake tensor has no values, so nothing was read
        assert loss.device.type == "cuda"


@pytest.mark.parametrize(("mode", "kind", "settings"), [case for case in CASES if case[2].get("gamma") != 0])
def test_autograd_keeps_only_logits_and_targets(mode, kind, settings):
    logits = torch.randn(300, 50, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(50, (300,)) if kind == "index" else torch.rand(300, 50).round()
    settings = {**settings, "alpha": None}
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        FocalLoss(mode, **settings)(logits, targets)
    for known in (logits, targets):
        saved.pop(known.untyped_storage().data_ptr(), None)
    assert sum(saved.values()) < 0.3 * logits.nbytes


@pytest.mark.parametrize(("mode", "kind", "settings"), [case for case in CASES if case[2].get("gamma") != 0])
def test_one_gradient_is_the_only_tensor_as_large_as_the_logits(mode, kind, settings, monkeypatch):
    monkeypatch.setitem(chunking.LOGITS_AT_ONCE, "cpu", 500)
    logits = torch.randn(2000, 20, requires_grad=True)
    targets = torch.randint(20, (2000,)) if kind == "index" else torch.rand(2000, 20).round()
    loss = FocalLoss(mode, **{**settings, "alpha": None, "reduction": "mean"})
    peak = peak_memory(lambda: loss(logits, targets).backward(), logits.device)
    # A mask of ignored labels takes a quarter. Softmax losses are one float and one index per row.
    assert logits.nbytes <= peak < 1.6 * logits.nbytes
