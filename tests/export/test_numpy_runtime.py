import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms
from torchvision.transforms.v2 import functional as F

from retinanet.data.padded_shapes import PaddedShapes, resized
from retinanet.export.numpy_runtime import detections, nms, padded_shape, prepare, resize, resized_size

RESIZING = {"shorter": 64, "longer": 100, "bucket_aspects": [1.34, 1.0], "divisor": 32, "padded_shape": None}
FINISHING = {
    "min_score": 0.1,
    "nms_iou": 0.5,
    "max_detections": 2,
    "thresholds": None,
    "nms": "outside",
    "nms_across_classes": False,
}
SIDES = st.integers(1, 150)


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, st.integers(2, 150), st.integers(1, 150), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_resizing_gives_the_pixels_of_torchvision(height, width, new_height, new_width, channels, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    planes = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    expected = F.resize(planes, [new_height, new_width], antialias=True).permute(1, 2, 0).numpy()
    assert (resize(image, new_height, new_width) == expected).all()


@given(SIDES, SIDES)
def test_sizes_are_those_of_training(height, width):
    shapes = PaddedShapes(longer=100, aspects=[1.0, 1.34], divisor=32)
    assert padded_shape(height, width, RESIZING) == shapes.padded_shape(shapes.bucket(height, width), 64)
    assert resized_size(height, width, RESIZING) == resized(height, width, 64, 100)


def test_images_are_padded_with_zeros_at_the_bottom_and_right():
    image = np.full((64, 70, 3), 7, np.uint8)
    images, sizes = prepare([image, image], RESIZING)
    assert images.shape == (2, 3, 64, 96) and sizes.tolist() == [[64, 70]] * 2
    assert (images[:, :, :, :70] == 7).all() and (images[:, :, :, 70:] == 0).all()


def test_images_of_different_padded_shapes_are_rejected():
    with pytest.raises(ValueError, match="pass images of one shape together"):
        prepare([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 100, 3), np.uint8)], RESIZING)


def test_image_of_another_shape_than_the_only_one_is_rejected():
    with pytest.raises(ValueError, match=r"image of 100x64 has the padded shape \(64, 128\), expected \[64, 64\]"):
        padded_shape(64, 100, RESIZING | {"padded_shape": [64, 64]})


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_nms_keeps_the_boxes_that_torchvision_keeps(count, seed):
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 40, (count, 2))], axis=1).astype(np.float32)
    scores = random.permutation(np.linspace(0.1, 0.9, count)).astype(np.float32)
    labels = random.integers(0, 3, count)
    expected = batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), 0.5)
    assert nms(boxes, scores, labels, 0.5).tolist() == expected.tolist()


def test_finished_detections():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [20, 0, 30, 20], [0, 5, 9, 5], [0, 0, 4, 4]])
    scores = np.array([0.9, 0.8, 0.3, 0.7, 0.95, 0.1])  # the fifth box has no area, the last is not above min_score
    labels = np.array([0, 0, 1, 0, 0, 1])
    outputs = [array[None] for array in (boxes.astype(np.float32), scores.astype(np.float32), labels)]
    sizes, original_sizes = np.array([[50, 40]]), np.array([[100, 120]])
    ((found, found_scores, found_labels),) = detections(outputs, sizes, original_sizes, FINISHING)
    assert found.tolist() == [[0, 0, 30, 20], [60, 0, 90, 40]]  # x by 3, y by 2
    assert found_scores.tolist() == pytest.approx([0.9, 0.7]) and found_labels.tolist() == [0, 0]
    ((found, _, _),) = detections(outputs, sizes, original_sizes, FINISHING | {"thresholds": [0.75, 0.2]})
    assert found.tolist() == [[0, 0, 30, 20]]
    ((_, _, found_labels),) = detections(outputs, sizes, original_sizes, FINISHING | {"max_detections": 9})
    assert found_labels.tolist() == [0, 0, 1]
    unused = [np.zeros((1, 2, 4), np.float32), np.full((1, 2), -1, np.float32), np.full((1, 2), -1)]
    ((found, _, _),) = detections(unused, sizes, original_sizes, FINISHING | {"nms": "inside"})
    assert found.shape == (0, 4)
