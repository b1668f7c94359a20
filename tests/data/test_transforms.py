import pytest
import torch

from retinanet.config import ColorTransform, FlipTransform, ResizeTransform, ScaleJitterTransform
from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms import (
    Resize,
    Sample,
    ScaleJitter,
    build_transforms,
    random_crop,
    resize,
)

GREY = 40


def grey_sample(height, width, boxes):
    """A grey image, white inside the boxes, whose edges are between pixels."""
    image = torch.full((3, height, width), GREY, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = 255
    count = len(boxes)
    is_crowd = torch.arange(count) % 2 == 1
    return Sample(image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(count), is_crowd)


def planned_image(padded_shape=(64, 64), *, shorter=48, longer=64):
    return PlannedImage(0, 0, shorter, longer, padded_shape, padded_shape)


def assert_white_exactly_in(image, box, *, blur=1):
    """Assert that exactly the pixels of the box are bright, up to `blur` pixels at its edge."""
    height, width = image.shape[-2:]
    x1, y1, x2, y2 = box.tolist()
    columns, rows = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    inside = ((rows > y1 + blur) & (rows < y2 - blur))[:, None] & ((columns > x1 + blur) & (columns < x2 - blur))
    outside = ((rows < y1 - blur) | (rows > y2 + blur))[:, None] | ((columns < x1 - blur) | (columns > x2 + blur))
    bright = image.float().mean(0)
    assert inside.any() and outside.any(), "the box leaves nothing to check"
    assert (bright[inside] > 200).all()
    assert (bright[outside] < 100).all()


# ---- expected values derived by hand


def test_resize_scales_boxes():
    result = resize(grey_sample(10, 20, [[2, 1, 12, 6]]), 20, 60)
    assert result.image.shape == (3, 20, 60) and result.image.dtype == torch.uint8
    assert result.boxes.tolist() == [[6, 2, 36, 12]]  # 3 times as wide, 2 times as high


def test_resize_to_the_same_size_returns_the_sample():
    before = grey_sample(10, 20, [[2, 1, 12, 6]])
    assert resize(before, 10, 20) is before


def test_resize_transform_fits_the_padded_shape():
    # 480 x 640 times 800 / 480: 800 x 1067, with a slightly different factor for the width.
    result = Resize()(
        grey_sample(480, 640, [[64, 48, 320, 240]]), PlannedImage(0, 0, 800, 1333, (800, 1088), (800, 1088))
    )
    assert result.image.shape == (3, 800, 1067)
    torch.testing.assert_close(result.boxes, torch.tensor([[106.7, 80.0, 533.5, 400.0]]))


def test_flip_mirrors_boxes():
    (flip,) = build_transforms([FlipTransform(p=1.0)])
    before = grey_sample(10, 20, [[2, 1, 12, 6], [0, 0, 20, 10]])
    result = flip(before, planned_image())
    assert result.boxes.tolist() == [[8, 1, 18, 6], [0, 0, 20, 10]]  # 20 - 12 = 8, 20 - 2 = 18
    assert torch.equal(result.image, before.image.flip(2))
    assert result.labels.tolist() == [0, 1] and result.is_crowd.tolist() == [False, True]
    assert type(result.image) is torch.Tensor and type(result.boxes) is torch.Tensor
    assert flip(result, planned_image()).boxes.tolist() == before.boxes.tolist()


def test_flip_probability():
    (flip,) = build_transforms([FlipTransform(p=0.25)])
    torch.manual_seed(0)
    flipped = sum(flip(grey_sample(4, 9, [[0, 0, 2, 2]]), planned_image()).boxes[0, 0].item() == 7 for _ in range(400))
    assert 70 < flipped < 130  # 100 on average, deviation 9
    (never,) = build_transforms([FlipTransform(p=0.0)])
    assert all(never(grey_sample(4, 9, [[0, 0, 2, 2]]), planned_image()).boxes[0, 0] == 0 for _ in range(50))


def test_crop_clips_and_removes_boxes(monkeypatch):
    offsets = iter([3, 5])  # top, left
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.tensor(next(offsets)))
    boxes = [
        [6, 4, 10, 7],  # inside: moved by (-5, -3)
        [0, 0, 8, 5],  # clipped to (5, 3)-(8, 5)
        [0, 0, 5, 3],  # touches the corner from outside
        [0, 0, 6, 4],  # one pixel remains
        [14, 12, 20, 16],  # extends beyond the right and bottom of the window (5, 3)-(15, 13): one pixel remains
        [15, 4, 18, 9],  # right of it
    ]
    result = random_crop(grey_sample(16, 20, boxes), 10, 10)
    assert result.image.shape == (3, 10, 10)
    assert result.boxes.tolist() == [[1, 1, 5, 4], [0, 0, 3, 2], [0, 0, 1, 1], [9, 9, 10, 10]]
    assert result.labels.tolist() == [0, 1, 3, 4]
    assert result.is_crowd.tolist() == [False, True, True, False]


def test_crop_draws_every_position_inside_the_image():
    torch.manual_seed(0)
    image = torch.arange(6 * 5, dtype=torch.uint8).reshape(1, 6, 5).expand(3, -1, -1)
    no_boxes = grey_sample(6, 5, [])._replace(image=image)
    corners = {int(random_crop(no_boxes, 4, 4).image[0, 0, 0]) for _ in range(300)}
    assert corners == {5 * top + left for top in range(3) for left in range(2)}


def test_image_smaller_than_the_window_is_not_cropped():
    before = grey_sample(8, 9, [[2, 1, 6, 5]])
    result = random_crop(before, 10, 10)
    assert torch.equal(result.image, before.image) and torch.equal(result.boxes, before.boxes)


# ---- boxes follow the image

CHAINS = {
    "resize": [ResizeTransform()],
    "resize, flip": [ResizeTransform(), FlipTransform(p=1.0)],
    "flip, resize": [FlipTransform(p=1.0), ResizeTransform()],
    "jitter smaller": [ScaleJitterTransform(min=0.6, max=0.9)],
    "jitter larger": [ScaleJitterTransform(min=1.3, max=2.0)],
    "jitter, flip": [ScaleJitterTransform(min=0.5, max=2.0), FlipTransform(p=0.5)],
    "colour": [ColorTransform(brightness=0.1, contrast=0.1, saturation=0.5, hue=0.5), ResizeTransform()],
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize(("size", "box"), [((100, 130), [40, 30, 90, 70]), ((41, 53), [10, 12, 45, 33])])
def test_white_square_stays_inside_its_box(size, box, name, seed):
    torch.manual_seed(seed)
    result, planned = grey_sample(*size, [box]), planned_image((96, 128), shorter=90, longer=128)
    for transform in build_transforms(CHAINS[name]):
        result = transform(result, planned)
    assert result.image.dtype == torch.uint8 and result.boxes.dtype == torch.float32
    height, width = result.image.shape[-2:]
    assert height <= 96 and width <= 128
    scale = height / size[0] if "jitter" not in name else 4  # the blur of a cropped image is unknown
    for transformed in result.boxes:
        assert_white_exactly_in(result.image, transformed, blur=max(1.0, scale))
    if "jitter" not in name:
        assert len(result.boxes) == 1


# ---- scale jitter


@pytest.mark.parametrize("seed", range(40))
def test_jittered_boxes_are_inside_the_image_and_not_empty(seed):
    torch.manual_seed(seed)
    corner = torch.randint(0, 90, (30, 2))
    boxes = torch.cat([corner, corner + torch.randint(1, 12, (30, 2))], dim=1).tolist()
    result = ScaleJitter(0.3, 3.0)(grey_sample(100, 100, boxes), planned_image((64, 64), shorter=64, longer=64))
    height, width = result.image.shape[-2:]
    assert height <= 64 and width <= 64
    x1, y1, x2, y2 = result.boxes.T
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
    assert (x2 - x1 >= 1).all() and (y2 - y1 >= 1).all()
    assert len(result.boxes) == len(result.labels) == len(result.is_crowd) <= 30


def test_jitter_draws_from_its_whole_range():
    torch.manual_seed(0)
    jitter, planned = ScaleJitter(0.5, 1.0), planned_image((64, 64), shorter=64, longer=64)
    sizes = [jitter(grey_sample(32, 32, []), planned).image.shape[-1] for _ in range(200)]
    assert 32 <= min(sizes) < 36 and 60 < max(sizes) <= 64


# ---- all transforms


@pytest.mark.parametrize("name", CHAINS)
def test_image_without_boxes_is_transformed(name):
    result = grey_sample(100, 130, [])
    for transform in build_transforms(CHAINS[name]):
        result = transform(result, planned_image((96, 128), shorter=90, longer=128))
    assert result.boxes.shape == (0, 4) and result.labels.shape == result.is_crowd.shape == (0,)


@pytest.mark.parametrize("name", CHAINS)
def test_transforms_do_not_change_their_input(name):
    before = grey_sample(100, 130, [[40, 30, 90, 70]])
    copies = [tensor.clone() for tensor in before]
    torch.manual_seed(1)
    for transform in build_transforms(CHAINS[name]):
        transform(before, planned_image((96, 128), shorter=90, longer=128))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(before, copies, strict=True))


@pytest.mark.parametrize("name", CHAINS)
def test_memory_layout_changes_no_pixel(name):
    """The decoder returns images with interleaved channels."""
    generator = torch.Generator().manual_seed(0)
    interleaved = torch.randint(256, (100, 131, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1)
    before = grey_sample(100, 131, [[40, 30, 90, 70]])
    results = []
    for image in (interleaved, interleaved.contiguous()):
        torch.manual_seed(3)
        result = before._replace(image=image)
        for transform in build_transforms(CHAINS[name]):
            result = transform(result, planned_image((96, 128), shorter=90, longer=128))
        results.append(result)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_result_depends_on_the_seed():
    transforms = build_transforms([ScaleJitterTransform(min=0.5, max=2.0), FlipTransform(), ColorTransform(hue=0.3)])

    def run(seed):
        torch.manual_seed(seed)
        result = grey_sample(100, 130, [[40, 30, 90, 70]])
        result = result._replace(image=result.image * torch.tensor([1.0, 0.5, 0.7]).reshape(3, 1, 1))
        result = result._replace(image=result.image.to(torch.uint8))
        for transform in transforms:
            result = transform(result, planned_image((96, 128), shorter=90, longer=128))
        return result

    first, again = run(5), run(5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    others = [run(seed).image for seed in range(5)]
    assert not any(image.shape == first.image.shape and torch.equal(image, first.image) for image in others)


def test_colour_jitter_changes_only_pixels():
    (jitter,) = build_transforms([ColorTransform(brightness=0.5, contrast=0, saturation=0)])
    before = grey_sample(10, 20, [[2, 1, 12, 6]])
    torch.manual_seed(0)
    after = jitter(before, planned_image())
    assert torch.equal(after.boxes, before.boxes) and not torch.equal(after.image, before.image)
    (nothing,) = build_transforms([ColorTransform(brightness=0, contrast=0, saturation=0)])
    assert torch.equal(nothing(before, planned_image()).image, before.image)
