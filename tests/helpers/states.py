"""Compare the states of two runs."""

import math
from typing import Any

import torch

from retinanet.checkpoint.file import Checkpoint


def assert_same_checkpoint(first: Checkpoint, second: Checkpoint) -> None:
    """Assert that all fields are equal and the states bit-identical, except for the duration of the run."""
    for name in set(Checkpoint._fields) - {"state"}:
        assert getattr(first, name) == getattr(second, name), name
    assert_same_state(first.state, second.state)


def assert_same_state(first: Any, second: Any) -> None:
    """Assert that two states are bit-identical, except for the duration of the run."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first.keys() - {"seconds"}:
            assert_same_state(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same_state(a, b)
    else:
        assert first == second or (isinstance(first, float) and math.isnan(first) and math.isnan(second))


def is_same_state(first: Any, second: Any) -> bool:
    """Whether `assert_same_state` holds."""
    try:
        assert_same_state(first, second)
    except AssertionError:
        return False
    return True
