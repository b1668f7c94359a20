"""The rule that determines whether a run has diverged."""

import math

import pytest
import torch

from retinanet.engine.divergence import FACTOR, PATIENCE, DivergenceCheck
from retinanet.losses.detection import Losses


def check_after(losses, check=None) -> DivergenceCheck:
    check = check or DivergenceCheck(torch.device("cpu"))
    for loss in losses:
        check.add(Losses(torch.tensor(0.75 * loss), torch.tensor(0.25 * loss)))
    return check


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([2.0] + [1e30] * 10, True),
        ([2.0] + [1e30] * 9, False),  # too short
        ([2.0] + [201.0] * 10, True),
        ([2.0] + [199.0] * 1000, False),  # less than 100 times the loss of the first step
        ([2.0] + [1e30] * 500 + [3.0], False),  # a spike that ended
        ([2.0] + ([1e30] * 9 + [3.0]) * 20, False),
        ([1e6] + [1e7] * 100, False),  # a loss with large weights
        ([1e6] + [2e8] * 10, True),
        ([0.001] + [0.5] * 100, False),  # the first batch has no objects, or the run is fine-tuned
        ([0.001] + [101.0] * 10, True),
        ([math.nan] + [0.5] * 100, False),  # the first step is skipped
        ([math.nan] + [101.0] * 10, True),
        ([math.inf] + [101.0] * 10, True),
        ([2.0] + [math.nan] * 100, False),  # reported by the check for non-finite gradients instead
    ],
)
def test_diverged_if_the_loss_stays_far_above_its_start(losses, diverged):
    assert (FACTOR, PATIENCE) == (100, 10)
    assert check_after(losses).read(step=len(losses)) is diverged


def test_start_and_end_of_divergence_are_each_logged_once(caplog):
    caplog.set_level("INFO", logger="retinanet")
    check = check_after([2.0, *[300.0] * 12])
    assert check.read(13) and check_after([400.0], check).read(14)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "step 13: training has diverged: for 12 steps the loss" in caplog.text and "(2)" in caplog.text
    assert not check_after([5.0], check).read(15)
    assert caplog.records[-1].getMessage() == "step 15: the loss is below 200 again"


def test_check_continues_where_a_checkpoint_left_off():
    first = check_after([2.0, *[300.0] * 6])
    assert not first.read(7)
    second = DivergenceCheck(torch.device("cpu"))
    second.load_state_dict(first.state_dict())
    assert not check_after([300.0] * 3, second).read(10)
    assert check_after([300.0], second).read(11)


def test_adding_a_loss_does_not_wait_for_the_device(host_reads):
    check = DivergenceCheck(torch.device("cpu"))
    losses = Losses(torch.tensor(1.0), torch.tensor(2.0))
    with host_reads() as reads:
        check.add(losses)
        check.add(losses)
    assert not reads
