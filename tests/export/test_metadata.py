import json
import zipfile

import pytest

from retinanet.errors import InputError
from retinanet.export import metadata as module
from retinanet.export.metadata import KEY, Metadata, read_metadata, require_packages
from tests.helpers.openvino_files import write_openvino_text

METADATA = Metadata(
    version="1.0",
    checkpoint="12ab",
    class_names=('"quoted"', "Größe <&>"),
    category_ids=(1, 7),
    mean=(123.675, 116.28),
    std=(58.395, 57.12),
    channels=2,
    shorter=64,
    longer=96,
    bucket_aspects=(1.0, 1.5),
    divisor=32,
    padded_shape=(64, 96),
    nms="outside",
    min_score=0.05,
    nms_iou=0.5,
    nms_across_classes=False,
    max_detections=100,
    thresholds=(0.1, 0.30000001192092896),
    precision="float32",
)


def write_zip(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)


def write_onnx(path, text):
    onnx = pytest.importorskip("onnx")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    onnx.helper.set_model_props(model, {KEY: text})
    onnx.save(model, path)


WRITERS = {
    "torch.pt2": lambda path, text: write_zip(path, {"torch/version": "0", f"torch/extra/{KEY}.json": text}),
    "aot.pt2": lambda path, text: write_zip(
        path, {"aot/data/a_metadata.json": "{}", "aot/data/b_metadata.json": json.dumps({KEY: text})}
    ),
    "model.onnx": write_onnx,
    "model.xml": write_openvino_text,
}


@pytest.mark.parametrize("name", WRITERS)
def test_metadata_is_read_from_every_format(tmp_path, name):
    WRITERS[name](tmp_path / name, METADATA.model_dump_json())
    assert read_metadata(tmp_path / name) == METADATA


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2", "a.xml", "a.bin"])
@pytest.mark.parametrize("content", [b"", b"not a model", b"<net/>"])
def test_other_files_are_rejected(tmp_path, name, content):
    if name == "a.onnx":
        pytest.importorskip("onnx")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="not a file written by `retinanet export`, or damaged"):
        read_metadata(tmp_path / name)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "openvino" else object())
    require_packages("onnx")
    require_packages("aot")
    with pytest.raises(
        InputError, match=r"packages are not installed: openvino; run: pip install 'retinanet\[export\]'"
    ):
        require_packages("openvino")


def test_a_missing_package_is_not_mistaken_for_a_damaged_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="packages are not installed: onnx"):
        read_metadata(tmp_path / "a.onnx")
