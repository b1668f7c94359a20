import pytest
import torch

from retinanet.data.collate import NUM_BOXES_DIVISOR, collate, pad_targets
from retinanet.data.reader import PreparedSample
from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.sample import Sample
from tests.helpers.batches import assert_same_batches

SHAPE = (64, 96)
NO_OBJECTS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)


@pytest.mark.parametrize(("most", "length"), [(0, 8), (1, 8), (8, 8), (9, 16), (16, 16), (17, 24), (100, 104)])
def test_targets_are_padded_to_multiples_of_8(most, length):
    def truth(count):
        boxes = torch.arange(4.0 * count).reshape(count, 4)
        return boxes, torch.arange(count) + 1, torch.arange(count) % 3 == 2

    targets = pad_targets([truth(most), truth(0), truth(min(most, 2))])
    assert NUM_BOXES_DIVISOR == 8
    assert targets.boxes.shape == (3, length, 4)
    assert targets.labels.shape == targets.is_object.shape == targets.is_crowd.shape == (3, length)
    for row, count in enumerate((most, 0, min(most, 2))):
        boxes, labels, is_crowd = truth(count)
        assert torch.equal(targets.boxes[row, :count], boxes) and torch.equal(targets.labels[row, :count], labels)
        assert torch.equal(targets.is_crowd[row, :count], is_crowd)
        assert torch.equal(targets.is_object[row, :count], ~is_crowd)
        # A padding row is in neither mask, and its box has an area.
        assert not targets.is_object[row, count:].any() and not targets.is_crowd[row, count:].any()
        assert targets.boxes[row, count:].tolist() == [[0, 0, 1, 1]] * (length - count)
        assert not targets.labels[row, count:].any()


def test_image_without_objects_has_only_padding_targets():
    image = torch.full((3, 64, 96), 9, dtype=torch.uint8)
    batch = collate([PreparedSample(PlannedImage(3, 0, 64, 96, SHAPE, SHAPE), Sample(image, *NO_OBJECTS), (10, 20))])
    assert batch.image_indices == (3,) and batch.original_sizes.tolist() == [[10, 20]]
    assert not batch.targets.is_object.any() and batch.targets.boxes.shape == (1, 8, 4)


def test_complete_classes_are_stacked_in_the_order_of_the_images():
    rows = [torch.tensor([True, False, True]), torch.tensor([False, False, True])]
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    planned = PlannedImage(3, 0, 64, 96, SHAPE, SHAPE)
    prepared = [PreparedSample(planned, Sample(image, *NO_OBJECTS, is_complete=row), (64, 96)) for row in rows]
    assert torch.equal(collate(prepared).targets.is_complete, torch.stack(rows))


def test_everything_outside_an_image_is_zero(monkeypatch):
    """Memory for a batch is not initialised."""
    monkeypatch.setattr("retinanet.data.collate.empty_images", lambda b, c, h, w: torch.full((b, c, h, w), 255).byte())
    sample = Sample(torch.full((3, 50, 80), 9, dtype=torch.uint8), *NO_OBJECTS)
    (image,) = collate([PreparedSample(PlannedImage(3, 0, 64, 96, SHAPE, SHAPE), sample, (50, 80))]).images
    assert (image[:, :50, :80] == 9).all()
    assert not image[:, 50:].any() and not image[:, :, 80:].any()


def test_worker_collates_images_into_shared_memory(monkeypatch):
    sample = Sample(torch.ones(3, 50, 96, dtype=torch.uint8), *NO_OBJECTS)
    prepared = PreparedSample(PlannedImage(3, 0, 64, 96, SHAPE, SHAPE), sample, (10, 20))
    in_main = collate([prepared])
    monkeypatch.setattr("retinanet.data.collate.get_worker_info", object)
    in_worker = collate([prepared])
    assert in_worker.images.is_shared() and not in_main.images.is_shared()
    assert_same_batches([in_main], [in_worker])


def test_has_crowd_is_set_only_for_crowd_regions():
    box, label = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0])
    objects, crowd = (box, label, torch.tensor([False])), (box, label, torch.tensor([True]))
    assert not pad_targets([objects, objects]).has_crowd
    assert pad_targets([objects, crowd]).has_crowd
