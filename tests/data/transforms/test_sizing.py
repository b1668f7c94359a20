import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.sample import Window, crop, random_crop, resize
from retinanet.data.transforms.sizing import Crop, IoUCrop, Resize, ScaleJitter, ZoomOut, planned_size
from tests.helpers.samples import (
    GREY,
    apply,
    assert_valid,
    assert_white_exactly_in,
    grey_sample,
    noise_sample,
    planned_image,
)

SIDES = st.integers(1, 60)

# ---- resizing


def test_resize_scales_boxes():
    result = resize(grey_sample(10, 20, [[2, 1, 12, 6]]), 20, 60)
    assert result.image.shape == (3, 20, 60) and result.image.dtype == torch.uint8
    assert result.boxes.tolist() == [[6, 2, 36, 12]]  # 3 times as wide, 2 times as high


def test_resize_to_the_same_size_returns_the_sample():
    before = grey_sample(10, 20, [[2, 1, 12, 6]])
    assert resize(before, 10, 20) is before


def test_resize_transform_fits_the_padded_shape():
    # 480 x 640 times 800 / 480: 800 x 1067, with a slightly different factor for the width.
    planned = PlannedImage(0, 0, 800, 1333, (800, 1088), (800, 1088))
    result = apply(Resize(), grey_sample(480, 640, [[64, 48, 320, 240]]), planned)
    assert result.image.shape == (3, 800, 1067)
    torch.testing.assert_close(result.boxes, torch.tensor([[106.7, 80.0, 533.5, 400.0]]))


def test_rotated_image_is_shrunk_to_the_planned_padded_shape():
    # 640 x 480 would become 1067 x 800, which is higher than 800; 800 / 640 = 1.25, and 480 * 1.25 = 600.
    planned = PlannedImage(0, 0, 800, 1333, (800, 1088), (800, 1088))
    assert planned_size(grey_sample(640, 480, []), planned) == (800, 600)


@settings(max_examples=100, deadline=None)
@given(size=st.tuples(SIDES, SIDES), shorter=SIDES, more=SIDES, max_shape=st.tuples(SIDES, SIDES))
def test_planned_size_fits_any_shape_and_is_stable(size, shorter, more, max_shape):
    planned = PlannedImage(0, 0, shorter, shorter + more, max_shape, max_shape)
    height, width = planned_size(grey_sample(*size, []), planned)
    assert 1 <= height <= max_shape[0] and 1 <= width <= max_shape[1]
    # Resizing again changes nothing, so a mosaic of the planned size is not resampled. Thin images may be rounded.
    again = planned_size(grey_sample(height, width, []), planned)
    assert (abs(again[0] - height) <= 1 and abs(again[1] - width) <= 1) or min(height, width) <= 2


@pytest.mark.parametrize("size", [(1, 1), (60, 1), (1, 60), (33, 20)])
def test_resize_to_one_pixel(size):
    assert resize(grey_sample(*size, []), 1, 1).image.tolist() == [[[GREY]]] * 3


# ---- cropping


def test_crop_clips_and_removes_boxes():
    boxes = [
        [6, 4, 10, 7],  # inside: moved by (-5, -3)
        [0, 0, 8, 5],  # clipped to (5, 3)-(8, 5)
        [0, 0, 5, 3],  # touches the corner from outside
        [0, 0, 6, 4],  # one pixel remains
        [14, 12, 20, 16],  # extends beyond the right and bottom of the window (5, 3)-(15, 13): one pixel remains
        [15, 4, 18, 9],  # right of it
    ]
    result = crop(grey_sample(16, 20, boxes), Window(top=3, left=5, height=10, width=10))
    assert result.image.shape == (3, 10, 10)
    assert result.boxes.tolist() == [[1, 1, 5, 4], [0, 0, 3, 2], [0, 0, 1, 1], [9, 9, 10, 10]]
    assert result.labels.tolist() == [0, 1, 3, 4]
    assert result.is_crowd.tolist() == [False, True, True, False]


def test_crop_draws_every_position_inside_the_image():
    torch.manual_seed(0)
    image = torch.arange(6 * 5, dtype=torch.uint8).reshape(1, 6, 5).expand(3, -1, -1)
    no_boxes = grey_sample(6, 5, [])._replace(image=image)
    corners = {int(apply(Crop(4, 4), no_boxes).image[0, 0, 0]) for _ in range(300)}
    assert corners == {5 * top + left for top in range(3) for left in range(2)}


def test_image_smaller_than_the_window_is_not_cropped():
    before = grey_sample(8, 9, [[2, 1, 6, 5]])
    result = random_crop(before, 10, 10)
    assert torch.equal(result.image, before.image) and torch.equal(result.boxes, before.boxes)


# ---- scale jitter


@pytest.mark.parametrize("seed", range(15))
def test_large_scale_jitter_fits_the_padded_shape(seed):
    result = apply(ScaleJitter(0.1, 2.0), noise_sample(seed, 100, 100, 30), planned_image((64, 80)), seed=seed)
    assert_valid(result, (64, 80))


@pytest.mark.parametrize(
    ("factor", "size"),
    [
        # Planned: 30 x 40 with shorter 60 becomes 60 x 80. Larger images are cropped to the padded shape of 64 x 96.
        (0.1, (6, 8)),
        (0.5, (30, 40)),
        (1.0, (60, 80)),
        (1.1, (64, 88)),  # 66 x 88
        (2.0, (64, 96)),  # 120 x 160
    ],
)
def test_jitter_scales_and_crops_to_the_padded_shape(factor, size):
    planned = PlannedImage(0, 0, 60, 96, (64, 96), (64, 96))
    result = apply(ScaleJitter(factor, factor), grey_sample(30, 40, [[0, 0, 40, 30]]), planned, seed=0)
    assert result.size == size
    assert result.boxes.tolist() == [[0, 0, size[1], size[0]]]


def test_jitter_moves_boxes_with_the_pixels():
    before = grey_sample(60, 80, [[20, 15, 60, 45]])
    for seed in range(20):
        result = apply(ScaleJitter(1.3, 2.0), before, PlannedImage(0, 0, 60, 96, (64, 96), (64, 96)), seed=seed)
        assert_white_exactly_in(result.image, result.boxes[0], blur=3)


def test_jitter_draws_from_its_whole_range():
    torch.manual_seed(0)
    planned = planned_image((64, 64), shorter=64, longer=64)
    sizes = [apply(ScaleJitter(0.5, 1.0), grey_sample(32, 32, []), planned).size[1] for _ in range(200)]
    assert 32 <= min(sizes) < 36 and 60 < max(sizes) <= 64


def test_enlarging_a_large_image_needs_no_larger_image(monkeypatch):
    resized = []
    monkeypatch.setattr(
        "retinanet.data.transforms.sample.F.resize",
        lambda image, size, antialias: resized.append((image.shape[-2:], size)) or image.new_zeros(3, *size),
    )
    apply(ScaleJitter(50.0, 50.0), grey_sample(100, 200, []), planned_image((64, 128), shorter=64, longer=128))
    # An image 50 times larger than 64 x 128 is never created: 1/50 of the image, 2 x 4 pixels, becomes 64 x 128.
    assert resized == [((2, 4), [64, 128])]


# ---- IoU crop


@pytest.mark.parametrize("seed", range(12))
def test_iou_crop_draws_the_windows_of_torchvision(seed):
    sample = noise_sample(seed, 50, 70)._replace(is_crowd=torch.zeros(6, dtype=torch.bool))
    boxes = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=sample.size)
    torch.manual_seed(seed)
    theirs = v2.RandomIoUCrop().make_params([tv_tensors.Image(sample.image), boxes])
    torch.manual_seed(seed)
    ours = IoUCrop(1.0, 0.3).draw_window(sample)
    if not theirs:
        assert ours is None
        return
    assert ours == (theirs["top"], theirs["left"], theirs["height"], theirs["width"])
    expected = sample.boxes[theirs["is_within_crop_area"]]
    result = crop(sample._replace(boxes=expected, labels=expected[:, 0].long(), is_crowd=expected[:, 0] < 0), ours)
    monkey = pytest.MonkeyPatch()
    monkey.setattr(IoUCrop, "draw_window", lambda self, sample: ours)
    assert torch.equal(apply(IoUCrop(1.0, 0.3), sample).boxes, result.boxes)
    monkey.undo()


def test_iou_crop_keeps_crowd_regions_whose_centre_is_outside(monkeypatch):
    monkeypatch.setattr(IoUCrop, "draw_window", lambda self, sample: Window(0, 0, 10, 10))
    before = grey_sample(20, 20, [[1, 1, 5, 5], [8, 0, 20, 9], [8, 0, 20, 9]], is_crowd=[False, False, True])
    result = apply(IoUCrop(1.0, 0.3), before)
    assert result.boxes.tolist() == [[1, 1, 5, 5], [8, 0, 10, 9]]
    assert result.is_crowd.tolist() == [False, True]


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (40, 60)])
def test_iou_crop_terminates_for_any_image(size):
    for before in (grey_sample(*size, []), grey_sample(*size, [[0, 0, size[1], size[0]]], is_crowd=[True])):
        assert apply(IoUCrop(1.0, 0.3), before, seed=0) is before  # no objects
    for seed in range(3):
        assert_valid(apply(IoUCrop(1.0, 0.01), grey_sample(*size, [[0, 0, 1, 1]]), seed=seed))


# ---- zooming out


def test_zoom_out_shrinks_onto_a_blank_image():
    before = grey_sample(60, 80, [[20, 15, 60, 45]])
    for seed in range(10):
        result = apply(ZoomOut(1.0, 2.0), before, seed=seed)
        assert result.size == (60, 80)
        x1, y1, x2, y2 = result.boxes[0].tolist()
        assert 20 <= x2 - x1 <= 40 and abs((x2 - x1) / (y2 - y1) - 4 / 3) < 0.1
        assert_white_exactly_in(result.image, result.boxes[0])
    assert apply(ZoomOut(0.0, 2.0), before) is before


def test_zoom_out_removes_boxes_of_less_than_a_pixel():
    before = grey_sample(60, 80, [[20, 15, 60, 45], [3, 3, 5, 5], [10, 10, 11, 20]], is_crowd=[False] * 3)
    results = [apply(ZoomOut(1.0, 4.0), before, seed=seed) for seed in range(30)]
    for result in results:
        assert_valid(result)
        factor = 40 / (result.boxes[0, 2] - result.boxes[0, 0]).item()
        assert len(result.boxes) == 1 + (factor < 2) or abs(factor - 2) < 0.1  # the second box has 2 / factor pixels
    assert {len(result.boxes) for result in results} == {1, 2}
