"""Packaging metadata, all of it: pyproject.toml holds only the build system and the settings of ruff and pytest.

tools/, configs/ and benchmarks/suites/ stay at the top of the repository, where people look for them, and are installed
as `retinanet.tools`, `retinanet.configs` and `retinanet.benchmarks`. There is no second copy of any.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup


def read_version() -> str:
    """The version as text. Importing the package for it would need torch before torch is installed."""
    path = Path(__file__).resolve().parent / "retinanet" / "__init__.py"
    match = re.search(r'^__version__\s*=\s*"([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise ValueError(f'{path}: found no line __version__ = "..."')
    return match[1]


setup(
    name="retinanet",
    version=read_version(),
    description="A RetinaNet training framework that reads top to bottom",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["retinanet", "retinanet.*"]),
        "retinanet.tools",
        "retinanet.configs",
        "retinanet.benchmarks",
    ],
    package_dir={
        "retinanet": "retinanet",
        "retinanet.tools": "tools",
        "retinanet.configs": "configs",
        "retinanet.benchmarks": "benchmarks/suites",
    },
    package_data={"retinanet.configs": ["*.yaml", "paper/*.yaml"]},
    install_requires=[
        # torch, torchvision and torchcodec are built against each other: these floors are one matching set.
        "torch>=2.11",
        "torchvision>=0.26",
        "torchcodec>=0.16",
        "numpy",
        "pillow>=11",
        "faster-coco-eval>=1.8",
        "pycocotools",
        "pydantic>=2.10",
        "pyyaml",
        "tensorboard",
        "tqdm",
    ],
    extras_require={"dev": ["pytest", "pytest-xdist", "hypothesis", "ruff"]},
    entry_points={"console_scripts": ["retinanet = retinanet.__main__:main"]},
)
