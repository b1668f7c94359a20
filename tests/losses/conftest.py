"""Fixtures of the loss tests."""

import pytest

from retinanet.losses import chunking


@pytest.fixture(scope="module")
def small_chunks():
    """Make chunks so small that every test needs several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(chunking.LOGITS_AT_ONCE, "cpu", 40)
        yield
