"""Gradient accumulation: micro-batches give the same gradient as the whole batch."""

import torch
from torch.testing import assert_close

from retinanet.structures import Batch, Targets
from tests.helpers.steps import batch_of, step_of, tiny_model_of


def image_of(batch: Batch, index: int) -> Batch:
    """One image of a batch as a separate batch."""
    images, image_sizes, original_sizes, *targets = (x[index : index + 1] for x in batch.tensors())
    targets = Targets(*targets, batch.targets.has_crowd)
    return Batch(images, image_sizes, original_sizes, targets, (batch.image_indices[index],))


def test_micro_batches_give_the_loss_and_gradient_of_the_whole_batch():
    """The second image has no objects, so dividing by the positive anchors of each micro-batch would be detected."""
    whole = batch_of()
    together, apart = step_of(tiny_model_of()), step_of(tiny_model_of())
    losses, num_positive = together.backward([whole])
    losses_apart, num_positive_apart = apart.backward([image_of(whole, 0), image_of(whole, 1)])
    assert num_positive == num_positive_apart > 3
    assert_close(tuple(losses_apart), tuple(loss.detach() for loss in losses))
    for (name, one), other in zip(together.model.named_parameters(), apart.model.parameters(), strict=True):
        scale = one.grad.abs().max().item()
        assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5 * scale, msg=name)
    assert torch.stack([p.grad.abs().max() for p in apart.model.parameters()]).max() > 0
