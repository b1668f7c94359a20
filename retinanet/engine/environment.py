"""Environment record: the versions, hardware and source commit of a run, saved with its results."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from retinanet import __version__
from retinanet.runtime.distributed import launch_id

PACKAGES = ("torch", "torchvision", "torchcodec", "hotcoco", "pycocotools", "pydantic", "numpy", "pillow")


def environment_record(custom_parts: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, hardware, source commit and command line of this process, as JSON-serialisable values.

    Args:
        custom_parts: parts of the run that were passed in Python; see `CustomConfig.described`.
    """
    packages = {}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed as a package"
    return {
        "retinanet": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": sys.argv,
        "custom_parts": list(custom_parts),
        "folder": os.getcwd(),  # relative paths in the config are relative to it
        "launch": launch_id(),
    }


def write_environment(file: Path, custom_parts: Sequence[str] = ()) -> None:
    """Write the environment record as JSON."""
    file.write_text(json.dumps(environment_record(custom_parts), indent=2) + "\n", encoding="utf-8")


def _git_commit() -> str | None:
    """Commit of the source tree, with the suffix -dirty if there are uncommitted changes.

    None for an installed package.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
