import numpy as np
import pytest
from PIL import Image

from retinanet.errors import InputError
from tests.helpers.batches import reader_of
from tests.helpers.datasets import image_record


@pytest.fixture
def rotated(tmp_path):
    """A PNG stored 10 wide and 6 high but displayed 6 wide and 10 high, and its stored pixels."""
    pixels = np.arange(6 * 10 * 3, dtype=np.uint8).reshape(6, 10, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed after a clockwise quarter turn
    Image.fromarray(pixels).save(tmp_path / "rotated.png", exif=exif)
    return tmp_path / "rotated.png", pixels


def test_annotated_size_of_the_displayed_image_applies_the_rotation(rotated):
    path, stored = rotated
    image = reader_of(image_record(path, 10, 6)).read(0).image
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.rot90(stored, -1))


def test_annotated_size_of_the_stored_image_keeps_the_stored_pixels(rotated):
    path, stored = rotated
    image = reader_of(image_record(path, 6, 10)).read(0).image
    assert np.array_equal(image.permute(1, 2, 0).numpy(), stored)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (10, 10), (12, 20), (5, 10)])
def test_other_annotated_sizes_are_an_error(rotated, height, width):
    path, _ = rotated
    with pytest.raises(InputError) as caught:
        reader_of(image_record(path, height, width)).read(0)
    assert str(caught.value).startswith(
        f"{path}: is 6x10, but annotated as {width}x{height}; its boxes would be misplaced"
    )


def test_swapped_size_without_exif_rotation_is_an_error(tmp_path):
    Image.new("RGB", (10, 6)).save(tmp_path / "plain.png")
    with pytest.raises(InputError, match="is 10x6, but annotated as 6x10"):
        reader_of(image_record(tmp_path / "plain.png", 10, 6)).read(0)
