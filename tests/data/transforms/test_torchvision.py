import pytest
import torch
from torchvision.transforms import v2

from retinanet.data.transforms.torchvision import TorchvisionTransform
from tests.helpers.samples import (
    apply,
    assert_same_sample,
    assert_valid,
    grey_sample,
    noise_sample,
)

ANY = {
    "affine": v2.RandomAffine(20, translate=(0.3, 0.3), scale=(0.5, 1.5), shear=5),
    "rotation": v2.RandomRotation(45, expand=True),
    "perspective": v2.RandomPerspective(p=1.0),
    "elastic": v2.ElasticTransform(20.0),
    "crop": v2.RandomCrop((20, 30), pad_if_needed=True),
    "resized crop": v2.RandomResizedCrop((32, 32), antialias=True),
    "IoU crop": v2.RandomIoUCrop(),
    "IoU crop, sanitized": v2.Compose([v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes()]),
    "scale jitter": v2.ScaleJitter((50, 50)),
    "zoom out": v2.RandomZoomOut(),
    "grey": v2.RandomGrayscale(p=1.0),
    "equalize": v2.RandomEqualize(p=1.0),
    "random choice": v2.RandomChoice([v2.RandomHorizontalFlip(1.0), v2.RandomVerticalFlip(1.0)]),
}


@pytest.mark.parametrize("name", ANY)
def test_any_transform_returns_valid_samples_and_depends_on_the_seed(name):
    for seed in range(3):
        before = noise_sample(seed)
        transform = TorchvisionTransform(ANY[name])
        first = apply(transform, before, seed=seed)
        assert_valid(first)
        assert type(first.image) is torch.Tensor and type(first.boxes) is torch.Tensor
        assert_same_sample(apply(transform, before, seed=seed), first)
        assert_same_sample(before, noise_sample(seed))


def test_labels_and_crowd_flags_follow_the_remaining_boxes():
    boxes = [[0, 0, 8, 8], [20, 20, 25, 25], [2, 2, 6, 6], [30, 0, 38, 4]]
    before = grey_sample(40, 40, boxes, is_crowd=[True, False, False, True])
    assert_same_sample(apply(TorchvisionTransform(v2.Identity()), before), before)
    for transform in (v2.CenterCrop((20, 20)), v2.Compose([v2.CenterCrop((20, 20)), v2.SanitizeBoundingBoxes()])):
        result = apply(TorchvisionTransform(transform), before)
        assert result.boxes.tolist() == [[10, 10, 15, 15]]  # the window starts at (10, 10)
        assert result.labels.tolist() == [1] and result.is_crowd.tolist() == [False]
    flipped = apply(TorchvisionTransform(v2.RandomHorizontalFlip(1.0)), before)
    assert flipped.boxes.tolist() == [[32, 0, 40, 8], [15, 20, 20, 25], [34, 2, 38, 6], [2, 0, 10, 4]]
    assert flipped.labels.tolist() == [0, 1, 2, 3] and torch.equal(flipped.is_crowd, before.is_crowd)


def test_other_box_formats_are_converted():
    before = grey_sample(20, 20, [[2, 4, 8, 10]])
    result = apply(TorchvisionTransform(v2.ConvertBoundingBoxFormat("CXCYWH")), before)
    assert_same_sample(result, before)


def test_image_without_boxes():
    for name, transform in ANY.items():
        result = apply(TorchvisionTransform(transform), grey_sample(30, 40, []), seed=0)
        assert result.boxes.shape == (0, 4), name


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (v2.ToDtype(torch.float32), "image of torch.float32"),
        (v2.Grayscale(), r"expected torch.uint8 \(3, H, W\)"),
        (v2.SanitizeBoundingBoxes(min_size=10, labels_getter=None), "1 boxes and 2 labels; follow it with"),
    ],
)
def test_unusable_results_are_errors(transform, expected):
    with pytest.raises(ValueError, match=expected):
        apply(TorchvisionTransform(transform), grey_sample(30, 30, [[0, 0, 20, 20], [0, 0, 5, 5]]))
