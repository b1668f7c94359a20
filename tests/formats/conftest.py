"""Fixtures of the format tests."""

import json

import pytest
from PIL import Image

from retinanet.config import DataSource
from retinanet.formats import decode


@pytest.fixture
def source(tmp_path):
    """Writes an annotation file (a document, or bytes) and the images it lists; returns the DataSource."""

    def write(content, name="some", write_images=True):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        file = tmp_path / f"{name}.json"
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        if write_images and isinstance(content, dict):
            for item in content["images"]:
                Image.new("RGB", (item.get("width") or 20, item.get("height") or 10)).save(folder / item["file_name"])
        return DataSource(images=str(folder), annotations=str(file))

    return write


@pytest.fixture(params=["torchcodec", "Pillow"])
def decoder(request, monkeypatch):
    """The decoder of the formats that torchcodec supports: itself, or Pillow as in an installation without it."""
    if request.param == "Pillow":
        monkeypatch.setattr(decode, "decode_image", None)
    elif decode.decode_image is None:
        pytest.skip("torchcodec is not installed")
    return request.param
