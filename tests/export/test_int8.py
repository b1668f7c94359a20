import numpy as np
import pytest

from retinanet.export.int8 import quantise_onnx
from retinanet.export.metadata import read_metadata
from retinanet.export.write import metadata_of, open_export
from tests.helpers.exports import noise_images, small_predictor

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

LAYERS = ["backbone.conv1", "head.class_subnet.0", "head.class_subnet.3", "head.box_subnet.0", "head.box_subnet.3"]


def write_chain_of_convolutions(path):
    """A file with the inputs and outputs of an export, and its names of weights."""
    random = np.random.default_rng(0)
    nodes = [onnx.helper.make_node("Cast", ["images"], ["x0"], to=onnx.TensorProto.FLOAT)]
    weights = []
    for number, layer in enumerate(LAYERS):
        name = f"network.{layer}.weight"
        values = random.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(values, name))
        nodes.append(onnx.helper.make_node("Conv", [f"x{number}", name], [f"x{number + 1}"], layer, pads=[1] * 4))
    nodes += [
        onnx.helper.make_node("Identity", [f"x{len(LAYERS)}"], ["boxes"]),
        onnx.helper.make_node("Identity", ["images"], ["scores"]),
        onnx.helper.make_node("Identity", ["image_sizes"], ["labels"]),
    ]
    kinds = onnx.TensorProto
    images = onnx.helper.make_tensor_value_info("images", kinds.UINT8, ["batch", 3, "rows", "columns"])
    sizes = onnx.helper.make_tensor_value_info("image_sizes", kinds.INT64, ["batch", 2])
    outputs = [
        onnx.helper.make_tensor_value_info("boxes", kinds.FLOAT, None),
        onnx.helper.make_tensor_value_info("scores", kinds.UINT8, None),
        onnx.helper.make_tensor_value_info("labels", kinds.INT64, None),
    ]
    graph = onnx.helper.make_graph(nodes, "chain", [images, sizes], outputs, weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)


def test_convolutions_are_quantised_except_the_last_of_each_subnet(tmp_path):
    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    write_chain_of_convolutions(source)
    metadata = metadata_of(small_predictor(), checkpoint="", nms="outside", precision="int8")
    images = noise_images((64, 64), (64, 96), (96, 64))
    quantise_onnx(source, target, metadata, images)
    assert read_metadata(target) == metadata
    graph = onnx.load(target).graph
    made_by = {output: node for node in graph.node for output in node.output}
    quantised = {node.name for node in graph.node if node.op_type == "Conv" and node.input[1] in made_by}
    assert quantised == {"backbone.conv1", "head.class_subnet.0", "head.box_subnet.0"}
    scales = {value.name: value for value in graph.initializer}
    conv = next(node for node in graph.node if node.name == "backbone.conv1")
    assert list(scales[made_by[conv.input[1]].input[1]].dims) == [3]  # one per output channel

    inputs = (images[0].transpose(2, 0, 1)[None], np.array([[64, 64]]))
    expected, found = (open_export(path, to="onnx")(*inputs)[0] for path in (source, target))
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
