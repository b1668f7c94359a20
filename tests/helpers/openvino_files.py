"""OpenVINO files with metadata and no model."""

from pathlib import Path
from xml.etree import ElementTree

from retinanet.export.metadata import KEY


def write_openvino_text(path: Path, text: str) -> None:
    """Write the metadata as openvino.save_model writes it."""
    net = ElementTree.Element("net")
    ElementTree.SubElement(ElementTree.SubElement(net, "rt_info"), KEY, value=text)
    ElementTree.ElementTree(net).write(path, encoding="utf-8")
