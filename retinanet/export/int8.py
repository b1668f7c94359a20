"""INT8: quantise the convolutions of an ONNX file with ranges measured on images (static quantisation, QDQ)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retinanet.export.metadata import KEY, Metadata
from retinanet.export.numpy_runtime import prepare
from retinanet.export.program import INPUTS


def quantise_onnx(source: Path, target: Path, metadata: Metadata, images: Iterable[np.ndarray]) -> None:
    """Quantise an ONNX file: weights per output channel, activations by their extremes in the images.

    The last convolution of each subnet stays in float: its outputs are the logits and box offsets.

    Args:
        metadata: stored in the target.
        images: uint8 (H, W, C), similar to those that the detector will be used on.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        """Provides prepared images to onnxruntime, one at a time."""

        def __init__(self, prepared: Iterator[dict[str, np.ndarray]]):
            self.prepared = prepared

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.prepared, None)

    values = metadata.model_dump()
    prepared = (dict(zip(INPUTS, prepare([image], values), strict=True)) for image in images)
    model = onnx.load(str(source))
    quantize_static(
        model,
        str(target),
        Reader(prepared),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=_last_convolutions(model.graph),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    quantised = onnx.load(str(target))
    onnx.helper.set_model_props(quantised, {KEY: metadata.model_dump_json()})
    onnx.save(quantised, str(target))


def _last_convolutions(graph: Any) -> list[str]:
    """Names of the nodes that apply the last convolution of a subnet of the head, on any level."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    last: dict[str, int] = {}  # position of the last layer, by subnet
    for subnet, position in map(_layer, convolutions):
        if subnet.startswith("network.head."):
            last[subnet] = max(position, last.get(subnet, 0))
    return [node.name for node in convolutions if last.get(_layer(node)[0]) == _layer(node)[1]]


def _layer(node: Any) -> tuple[str, int]:
    """Subnet and position of a layer, from the name of its weights: `network.head.box_subnet.3.weight`."""
    subnet, _, position = node.input[1].removesuffix(".weight").rpartition(".")
    return (subnet, int(position)) if position.isdigit() else (node.input[1], 0)
