import numpy as np
import pytest
import torch

from retinanet.errors import InputError
from retinanet.formats.custom import as_dataset
from tests.helpers.custom_parts import NoiseDataset


class Changed(NoiseDataset):
    """A dataset whose second record has other values."""

    def __init__(self, **changes):
        super().__init__(3)
        self.changes = changes

    def image(self, index):
        record = super().image(index)
        return record._replace(**self.changes) if index == 1 else record


def test_arrays_of_the_records():
    dataset = as_dataset(NoiseDataset(3, first=1))
    assert dataset.paths == ("noise.1", "noise.2", "noise.3") and dataset.image_ids == (1, 2, 3)
    assert dataset.class_names == ("cat", "dog") and dataset.category_ids == (1, 2)
    assert dataset.sizes.tolist() == [[32, 48]] * 3
    np.testing.assert_array_equal(dataset.boxes_xywh, [[5, 4, 20, 20], [6, 4, 20, 20], [7, 4, 20, 20]])
    assert dataset.labels.tolist() == [1, 0, 1] and dataset.areas.tolist() == [400] * 3


def test_images_without_objects_are_kept():
    dataset = as_dataset(Changed(boxes=[], labels=[], is_crowd=[]))
    assert dataset.box_start.tolist() == [0, 1, 1, 2]
    assert len(dataset.image(1).boxes) == 0


def test_dataset_is_returned_unchanged():
    dataset = as_dataset(NoiseDataset())
    assert as_dataset(dataset) is dataset


def test_subset_of_a_subset_reads_the_same_images():
    source = NoiseDataset()
    part = as_dataset(source).subset([4, 2, 0]).subset([2, 1])
    assert part.paths == ("noise.0", "noise.2")
    assert torch.equal(part.read_image(0, channels=3), source.read_image(0))
    assert torch.equal(part.read_image(1, channels=3), source.read_image(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.array([[4, 4, 60, 24]])}, r"image 1 \(noise.1\): box .* is not a box in an image of 48x32"),
        ({"boxes": np.array([[24, 4, 4, 24]])}, "is not a box"),
        ({"boxes": np.array([[4, np.nan, 24, 24]])}, "is not a box"),
        ({"boxes": np.array([4, 4, 24, 24])}, r"boxes, labels and is_crowd are \[\(4,\), \(1,\), \(1,\)\]"),
        ({"labels": np.array([2])}, r"labels are \[2\], expected integers from 0 to 1"),
        ({"labels": np.array([0.5])}, "labels are"),
        ({"height": 0}, "is 48x0 pixels"),
        ({"image_id": 0}, "image_id 0 occurs more than once"),
        ({"path": "noise.0"}, "path 'noise.0' occurs more than once"),
        ({"is_complete": np.array([True, False])}, "needs a Dataset with `federated`"),
    ],
)
def test_invalid_record_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        as_dataset(Changed(**changes))


@pytest.mark.parametrize(
    "wrong", [[], NoiseDataset, NoiseDataset(0), type("NoClasses", (NoiseDataset,), {"class_names": ()})()]
)
def test_object_that_is_not_a_dataset_is_refused(wrong):
    with pytest.raises(InputError, match=r"lacks class_names|is a class|has no images|class_names are"):
        as_dataset(wrong)


@pytest.mark.parametrize(
    "pixels", [np.zeros((3, 32, 48), np.uint8), torch.zeros(3, 32, 48), torch.zeros(1, 32, 48).byte()]
)
def test_wrong_pixels_are_refused(pixels):
    source = NoiseDataset()
    source.read_image = lambda index: pixels
    with pytest.raises(InputError, match=r"noise.0: read_image returned .*, expected torch.uint8 \(3, 32, 48\)"):
        as_dataset(source).read_image(0, channels=3)


def test_image_that_cannot_be_read_is_an_input_error():
    source = NoiseDataset()

    def read_image(index):
        raise FileNotFoundError("the archive is gone")

    source.read_image = read_image
    with pytest.raises(InputError, match=r"noise.0: cannot be read: the archive is gone"):
        as_dataset(source).read_image(0, channels=3)
