import pytest
import torch

from retinanet.errors import InputError
from retinanet.runtime.device import memory_format_for, resolve_compile, resolve_precision

CPU = torch.device("cpu")


def test_auto_compiles_nothing_on_a_cpu():
    assert resolve_compile(CPU, "auto") is False
    assert resolve_compile(CPU, False) is False


def test_compiling_needs_a_compiler(monkeypatch, tmp_path):
    compiler = tmp_path / "some-compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert resolve_compile(CPU, True) is True
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"train\.compile is true.*no-such-compiler.*train\.compile=false"):
        resolve_compile(CPU, True)
    assert resolve_compile(CPU, False) is False


def test_compiling_needs_the_python_headers(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("CXX", "sh")  # any existing program
    with pytest.raises(InputError, match=r"Python\.h"):
        resolve_compile(CPU, True)


def test_precision_names_resolve_to_dtypes():
    assert resolve_precision(CPU, "fp32") == torch.float32
    assert resolve_precision(CPU, "bf16") == torch.bfloat16
    assert resolve_precision(CPU, "auto") in (torch.float32, torch.bfloat16)


def test_memory_format_is_contiguous_only_for_float32_with_avx2(monkeypatch):
    for capability, expected in (("AVX2", torch.contiguous_format), ("AVX512", torch.channels_last)):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda capability=capability: capability)
        assert memory_format_for(CPU, torch.float32) == expected
        assert memory_format_for(CPU, torch.bfloat16) == torch.channels_last
        assert memory_format_for(torch.device("cuda"), torch.float32) == torch.channels_last
