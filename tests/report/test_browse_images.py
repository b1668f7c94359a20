"""Images on demand: their size, and the limit of the cache."""

import base64
import io

import pytest
from PIL import Image

from retinanet.data.reader import SampleReader
from retinanet.errors import InputError
from retinanet.formats.images.settings import ImageSettings
from retinanet.report.browse_images import THUMBNAIL_SIDE, ImageFiles
from tests.helpers.datasets import dataset_of, image_record


@pytest.fixture
def reader(tmp_path):
    """Three images of 1000 x 500 pixels, red, green and blue."""
    records = []
    for number, color in enumerate(["red", "lime", "blue"]):
        Image.new("RGB", (1000, 500), color).save(tmp_path / f"{number}.png")
        records.append(image_record(tmp_path / f"{number}.png", 500, 1000, image_id=number + 1))
    return SampleReader(dataset_of(records), [], seed=0, settings=ImageSettings(max_pixels=10**6))


def test_images_are_shrunk_but_not_enlarged(reader):
    images = ImageFiles(reader)
    small, whole = (Image.open(io.BytesIO(images.jpeg(1, side))) for side in (100, 2000))
    assert (small.size, whole.size) == ((100, 50), (1000, 500))
    assert small.getpixel((50, 25)) == pytest.approx((0, 255, 0), abs=3)
    url = images.data_url(2)
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)


def test_cache_is_limited_and_drops_the_least_recently_used(reader, monkeypatch):
    reads, read = [], reader.read
    monkeypatch.setattr(reader, "read", lambda index: reads.append(index) or read(index))
    size = len(ImageFiles(reader).jpeg(0, 100))
    reads.clear()
    images = ImageFiles(reader, max_bytes=int(2.5 * size))  # JPEG files of one colour are almost equally large
    for index in (0, 1, 0, 2, 0, 1):
        images.jpeg(index, 100)
    assert reads == [0, 1, 2, 1]  # 0 was used again before 2 replaced 1


def test_unreadable_image_is_an_error(reader, tmp_path):
    (tmp_path / "1.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"1\.png"):
        ImageFiles(reader).jpeg(1, 100)
