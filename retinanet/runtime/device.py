"""Choose the device, precision, memory format and compilation for a run."""

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
    """Resolve a device setting. "auto" means an available accelerator, otherwise the CPU. Each process has its own GPU.

    Raises:
        InputError: the device is unknown or not available.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return local_device(found) if found is not None else torch.device("cpu")
    try:
        device = local_device(torch.device(name))  # select the GPU before the test below, which allocates memory on it
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise InputError(
            f"device: {name} cannot be used: {str(error).splitlines()[0]}; set device=auto or cpu"
        ) from None
    return device


def resolve_precision(device: torch.device, precision: Precision) -> torch.dtype:
    """Resolve a precision setting to a dtype; "auto" is bfloat16 if the hardware supports it, otherwise float32."""
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has native bfloat16 instructions, which make bfloat16 faster than float32."""
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return False


def memory_format_for(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """Fastest memory format for convolutions: channels last, except in float32 on a CPU with AVX2 but no AVX-512.

    On such CPUs, a training step is measurably faster with channels first (see benchmarks/results).
    """
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX2":
        return torch.contiguous_format
    return torch.channels_last


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Context manager that runs the network in `dtype`; with float32, it has no effect."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def resolve_compile(device: torch.device, setting: CompileSetting) -> bool:
    """Whether to compile for training; "auto" compiles on CUDA if a compiler is installed.

    On a CPU, the class loss is faster in eager mode, and convolutions, which take up most of a step, are equally fast.
    Assignment is never compiled.

    Raises:
        InputError: `setting` is true, but there is no compiler.
    """
    if setting == "auto":
        return device.type == "cuda" and missing_for_compiling(device) is None
    if setting:
        require_compiler(device, "train.compile")
    return setting


def require_compiler(device: torch.device, key: str) -> None:
    """Check that torch.compile works on this machine. `key` is the setting to name in the error message.

    Raises:
        InputError: a compiler or a header is missing.
    """
    missing = missing_for_compiling(device)
    if missing:
        raise InputError(f"{key} is true, but compiling for {device} needs {missing}; install it, or set {key}=false")


def missing_for_compiling(device: torch.device) -> str | None:
    """Describe what torch.compile is missing on this machine; None if nothing is missing."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "triton, which comes with torch for CUDA"
    named = os.environ.get("CXX")
    if not any(map(shutil.which, [named] if named else ["g++", "clang++", "c++"])):
        return f"a C++ compiler ({named or 'g++'} not found; set CXX to use another one)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.exists() else f"the Python headers ({header}; Debian and Ubuntu: python3-dev)"


def compiled_graphs() -> int:
    """Number of graphs compiled by torch.compile in this process; steady growth means that every step recompiles."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def set_determinism(deterministic: bool) -> None:
    """Select deterministic kernels, or the fastest ones.

    Deterministic kernels give bit-identical results on the same machine with the same number of threads.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is initialised
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
