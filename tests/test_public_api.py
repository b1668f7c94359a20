import ast
import subprocess
import sys
from pathlib import Path

import pytest

import retinanet

PUBLIC = [
    "Callback",
    "Config",
    "Detections",
    "FocalLoss",
    "InputError",
    "Predictor",
    "RetinaNet",
    "build_model",
    "draw_detections",
    "evaluate",
    "focal_loss",
    "load_config",
    "open_video",
    "predict",
    "train",
]


def test_dir_and_all_list_the_public_names():
    assert retinanet.__all__ == PUBLIC
    assert dir(retinanet) == sorted([*PUBLIC, "__version__"])


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_resolves_to_a_documented_object(name):
    assert getattr(retinanet, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'retinanet' has no attribute 'Trainer'"):
        _ = retinanet.Trainer


def test_names_for_type_checkers_equal_those_at_run_time():
    tree = ast.parse(Path(retinanet.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    static = {
        alias.asname or alias.name: (statement.module, alias.name)
        for statement in block.body
        for alias in statement.names
    }
    assert static == retinanet._PUBLIC
    assert (Path(retinanet.__file__).parent / "py.typed").is_file()


def test_import_does_not_import_torch():
    code = "import sys, retinanet; dir(retinanet); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
