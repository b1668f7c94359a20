import subprocess
import sys

import numpy as np
import pytest
import torch

from retinanet.export.verified import RUNTIME, verify_file
from retinanet.export.verify import ExportRejected
from tests.helpers.exports import check_format, few_objects
from tests.helpers.markdown import REPO, blocks_in

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An ONNX file with NMS outside, and the code for its clients beside it."""
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    check_format(path, to="onnx", nms="outside")
    (path.parent / RUNTIME.name).write_bytes(RUNTIME.read_bytes())
    return path


def test_file_with_nms_inside_detects_what_the_predictor_detects(tmp_path):
    check_format(tmp_path / "small.onnx", to="onnx", nms="inside", size=(64, 96))


def test_wrong_mean_in_a_file_is_caught(exported, tmp_path):
    model = onnx.load(exported)
    (mean,) = (tensor for tensor in model.graph.initializer if tensor.name == "network.mean")
    mean.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(mean) + np.float32(5), mean.name))
    onnx.save(model, tmp_path / "small.onnx")
    predictor, images = few_objects()
    verify_file(exported, predictor, to="onnx", images=images, data=None)
    with pytest.raises(ExportRejected, match=r"is missing|is not expected"):
        verify_file(tmp_path / "small.onnx", predictor, to="onnx", images=images, data=None)


def test_documented_client_needs_only_numpy_and_onnxruntime(exported):
    block = next(block for block in blocks_in(REPO / "docs" / "export.md") if "onnxruntime" in block.text)
    assert len(block.text.splitlines()) <= 40
    predictor, images = few_objects()
    of_images = [predictor(torch.from_numpy(image).permute(2, 0, 1).contiguous()) for image in images]
    found, image = max(zip(of_images, images, strict=True), key=lambda pair: len(pair[0]))
    np.save(exported.parent / "image.npy", image)
    forbidden = {"torch", "torchvision", "PIL", "scipy", "retinanet", "onnx"}
    program = f"""
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden!r}:
            raise ImportError(name)

sys.meta_path.insert(0, Forbidden())
{block.text}
"""
    (exported.parent / "client.py").write_text(program, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-P", "client.py", "small.onnx", "image.npy"],
        cwd=exported.parent,
        env={"PYTHONPATH": str(exported.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    expected = [
        f"image.npy {found.class_name(label)} {score:.2f} {' '.join(f'{side:.0f}' for side in box)}"
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    ]
    assert expected and result.stdout.splitlines() == expected
