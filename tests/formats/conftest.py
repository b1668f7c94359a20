"""Fixtures of the format tests."""

import json

import pytest
from PIL import Image

from retinanet.config import DataSource
from retinanet.formats.images import decode


@pytest.fixture
def source(tmp_path):
    """Return a function that writes an annotation file and its images, and returns the DataSource."""

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
    """The decoder for the formats that torchcodec supports: torchcodec, or Pillow as if torchcodec were missing."""
    if request.param == "Pillow":
        monkeypatch.setattr(decode, "decode_image", None)
    elif decode.decode_image is None:
        pytest.skip("torchcodec is not installed")
    return request.param
