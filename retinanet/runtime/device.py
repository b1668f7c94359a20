"""Where and in which precision a run computes."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

from retinanet.config.base import Precision
from retinanet.config.train import CompileSetting
from retinanet.errors import InputError
from retinanet.runtime.distributed import local_device


def resolve_device(name: str) -> torch.device:
    """ "auto" is the accelerator that torch finds, else the CPU. Under torchrun each process has a GPU of its own.

    Raises:
        InputError: the device is not known or not there.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return local_device(found) if found is not None else torch.device("cpu")
    try:
        device = local_device(torch.device(name))  # first: a look at one GPU from all processes takes memory there
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # what is not built into this torch is a RuntimeError too
        raise InputError(
            f"device: {name} cannot be used: {str(error).splitlines()[0]}; set device=auto or cpu"
        ) from None
    return device


def resolve_precision(device: torch.device, precision: Precision) -> torch.dtype:
    """The type the network computes in. "auto" is bfloat16 where the hardware has it, else float32."""
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: native instructions, not an emulation."""
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return False


def memory_format_for(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """Channels last, which convolutions of accelerators and in bfloat16 are made for; but channels first for float32 on
    a CPU with AVX2 alone, where a training step in it is the faster one (measured, see benchmarks/results)."""
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX2":
        return torch.contiguous_format
    return torch.channels_last


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def resolve_compile(device: torch.device, setting: CompileSetting) -> bool:
    """Whether to compile for training. "auto" is where it pays: on CUDA, with a compiler at hand.

    On a CPU the eager class loss is the faster one, and convolutions, most of the step, are the same. The assignment is
    never compiled.

    Raises:
        InputError: asked for, and there is no compiler.
    """
    if setting == "auto":
        return device.type == "cuda" and missing_for_compiling(device) is None
    if setting:
        require_compiler(device, "train.compile")
    return setting


def require_compiler(device: torch.device, key: str) -> None:
    """
    Raises:
        InputError: torch.compile would fail on this machine.
    """
    missing = missing_for_compiling(device)
    if missing:
        raise InputError(f"{key} is true, but compiling for {device} needs {missing}; install it, or set {key}=false")


def missing_for_compiling(device: torch.device) -> str | None:
    """What torch.compile needs here and does not find."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "triton, which comes with torch for CUDA"
    named = os.environ.get("CXX")
    if not any(map(shutil.which, [named] if named else ["g++", "clang++", "c++"])):
        return f"a C++ compiler ({named or 'g++'} is not there; CXX names another one)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.exists() else f"the headers of Python ({header}; Debian and Ubuntu: python3-dev)"


def compiled_graphs() -> int:
    """How often torch.compile has compiled in this process: a number that keeps growing is time lost in every step."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def set_determinism(deterministic: bool) -> None:
    """The same bits again on the same machine with the same number of threads; or the fastest kernels."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
