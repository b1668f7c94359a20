"""The training step with torch.compile."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from retinanet.config import LossConfig
from retinanet.losses.build import build_loss
from retinanet.runtime.device import compiled_graphs
from tests.helpers.steps import batch_of, model_of, step_of


@pytest.mark.slow
def test_one_compiled_graph_serves_many_shapes(monkeypatch):
    # The number of graphs does not depend on the backend.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    step = step_of(model_of(), compile=True)
    step.criterion = build_loss(LossConfig())
    before = compiled_graphs()
    for number in range(10):
        # No level is one cell wide, which would take another path.
        height, width = 288 + 32 * (number % 3), 160 + 32 * (number // 2)
        sizes = torch.tensor([[height, width]] * 2)
        images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
        step([batch_of()._replace(images=images, image_sizes=sizes, original_sizes=sizes)], 1)
    assert 1 <= compiled_graphs() - before <= 4


@pytest.mark.slow  # a minute of compiling
def test_compiled_step_equals_the_eager_step():
    """Gradients and losses: weights after several steps would amplify the rounding of the CPU."""
    batch, compiled, eager = batch_of(), model_of(), model_of()
    first, second = step_of(compiled, compile=True), step_of(eager)
    first.backward([batch])
    second.backward([batch])
    for (name, result), expected in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        assert (result.grad - expected.grad).norm() <= 1e-3 * expected.grad.norm(), name
    for step in (first, second):
        step.optimizer.zero_grad()
    for number in range(2):
        metrics, expected = first([batch], 1), second([batch], 1)
        assert_close(tuple(metrics.losses), tuple(expected.losses), rtol=1e-3, atol=1e-4)
        if number == 0:
            for after, reference in zip(compiled.parameters(), eager.parameters(), strict=True):
                assert_close(after, reference, rtol=1e-3, atol=1e-4)
