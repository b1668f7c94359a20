"""Samples whose pixels show the positions of their boxes, and functions that apply transforms to them."""

from collections.abc import Sequence

import torch

from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.partners import Partners, SampleTransform
from retinanet.data.transforms.sample import Sample
from retinanet.errors import InputError

GREY = 40


def grey_sample(height, width, boxes, *, is_crowd=None, first_label=0):
    """A grey image that is white inside its boxes. Box edges lie between pixels; every other box is a crowd region."""
    image = torch.full((3, height, width), GREY, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = 255
    count = len(boxes)
    crowd = torch.arange(count) % 2 == 1 if is_crowd is None else torch.tensor(is_crowd, dtype=torch.bool)
    labels = torch.arange(first_label, first_label + count)
    return Sample(image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels, crowd)


def noise_sample(seed, height=40, width=60, count=6):
    """Pixels of noise, and random boxes of at least 2 x 2 pixels inside the image; some are crowd regions."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    first, second = torch.rand(2, count, 2, generator=generator)
    limits = torch.tensor([width, height], dtype=torch.float32)
    corner = first * (limits - 2)
    end = corner + 2 + second * (limits - 2 - corner)
    labels = torch.randint(5, (count,), generator=generator)
    return Sample(image, torch.cat([corner, end], dim=1), labels, torch.rand(count, generator=generator) < 0.25)


def planned_image(max_shape=(64, 64), *, index=0, epoch=0, shorter=48, longer=64):
    """One planned image, by default in a batch from its own bucket."""
    return PlannedImage(index, epoch, shorter, longer, max_shape, max_shape)


def partners_of(*samples, planned=None, seed=0):
    """Partners from a dataset whose image 0 is the planned one; a partner that is None cannot be read."""

    def read(index):
        if samples[index - 1] is None:
            raise InputError(f"{index}.png: damaged")
        return samples[index - 1]

    return Partners(read, 1 + len(samples), planned or planned_image(), seed=seed)


def apply(
    transforms: SampleTransform | Sequence[SampleTransform], sample: Sample, planned=None, partners=None, *, seed=None
) -> Sample:
    """Apply one or more transforms in order to a sample, by default without partners."""
    if seed is not None:
        torch.manual_seed(seed)
    planned = planned or planned_image()
    for transform in transforms if isinstance(transforms, list) else [transforms]:
        sample = transform(sample, planned, partners or partners_of(planned=planned))
    return sample


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
    assert (bright[outside] < 130).all()


def assert_valid(sample, max_shape=None, *, min_side=1.0, tolerance=0.0):
    """Assert that boxes are inside the image and at least `min_side` long, and that all fields have the same length."""
    height, width = sample.size
    assert sample.image.dtype == torch.uint8 and sample.image.shape[0] == 3
    assert max_shape is None or (height <= max_shape[0] and width <= max_shape[1])
    assert sample.boxes.dtype == torch.float32 and sample.labels.dtype == torch.int64
    assert sample.is_crowd.dtype == torch.bool
    assert len(sample.boxes) == len(sample.labels) == len(sample.is_crowd)
    x1, y1, x2, y2 = sample.boxes.T
    assert (x1 >= 0).all() and (y1 >= 0).all()
    assert (x2 <= width + tolerance).all() and (y2 <= height + tolerance).all()
    assert (x2 - x1 >= min_side).all() and (y2 - y1 >= min_side).all()


def assert_same_sample(sample, other):
    """Assert that two samples are equal bit for bit."""
    assert (sample.is_complete is None) == (other.is_complete is None)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(sample, other, strict=True))
