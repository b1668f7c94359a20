import io
import zlib

import numpy as np
import pytest
from PIL import Image

from retinanet.data.synthetic.png import write_png


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 1), (48, 31)])
def test_pillow_reads_the_same_pixels(tmp_path, height, width):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    write_png(tmp_path / "x.png", pixels)
    with Image.open(tmp_path / "x.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_damaged_file_is_detected(tmp_path):
    """Pillow compares the checksum of a chunk only in `verify`."""
    write_png(tmp_path / "x.png", np.zeros((4, 4, 3), dtype=np.uint8))
    content = (tmp_path / "x.png").read_bytes()
    Image.open(io.BytesIO(content)).verify()
    length, kind, data = content[8:12], content[12:16], content[16:29]
    assert (int.from_bytes(length), kind) == (13, b"IHDR")
    assert int.from_bytes(content[29:33]) == zlib.crc32(kind + data)
    damaged = bytearray(content)
    damaged[-20] ^= 1  # in the compressed data, before the 12 bytes of IEND and the 4 of the checksum
    with pytest.raises((OSError, SyntaxError)):
        Image.open(io.BytesIO(damaged)).verify()


def test_file_of_a_noisy_image_is_smaller_than_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(100, 108, (64, 64, 3), dtype=np.uint8)
    write_png(tmp_path / "x.png", pixels)
    # Differences of two uniform numbers in 0..7 have 15 values and an entropy of 3.7 bits instead of 8.
    assert (tmp_path / "x.png").stat().st_size < 0.55 * pixels.nbytes
