"""Helpers for tests that run on the CPU, and on a GPU if there is one."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from retinanet.benchmarks.measure import HostReads

CPU = torch.device("cpu")
ON_CUDA = pytest.param(torch.device("cuda"), marks=pytest.mark.gpu, id="cuda")
DEVICES = [pytest.param(CPU, id="cpu"), ON_CUDA]


@contextmanager
def no_host_reads(device: torch.device) -> Iterator[None]:
    """Fail if the host waits for the device: CUDA reports it; on a CPU, the operations that would wait are counted."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return
    with HostReads() as reads:
        yield
    assert reads == []


@contextmanager
def full_float32() -> Iterator[None]:
    """Disable TF32, with which convolutions on CUDA round their inputs to 10 bits by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
