"""Properties of every transform in the config schema, alone and in combination."""

import json
import typing

import pytest
import torch

from retinanet.config import DataConfig, Transform
from retinanet.config.base import models_in
from retinanet.data.transforms.build import build_transforms
from tests.helpers.samples import (
    apply,
    assert_same_sample,
    assert_valid,
    assert_white_exactly_in,
    grey_sample,
    noise_sample,
    partners_of,
    planned_image,
)

RESIZE, JITTER = {"type": "resize"}, {"type": "scale_jitter", "min": 0.1, "max": 2.0}
# Each transform with settings that make it apply, before or after a resize.
CHAINS = {
    "resize": [RESIZE],
    "jitter": [JITTER],
    "jitter smaller": [{"type": "scale_jitter", "min": 0.6, "max": 0.9}],
    "flip": [RESIZE, {"type": "flip", "p": 1.0}],
    "flip, resize": [{"type": "flip", "p": 1.0}, RESIZE],
    "vertical_flip": [RESIZE, {"type": "vertical_flip", "p": 1.0}],
    "rotate90": [RESIZE, {"type": "rotate90", "p": 1.0}],
    "rotate90, resize": [{"type": "rotate90", "p": 1.0}, RESIZE],
    "crop": [RESIZE, {"type": "crop", "size": [50, 40]}],
    "crop, resize": [{"type": "crop", "size": [50, 40]}, RESIZE],
    "iou_crop": [{"type": "iou_crop"}, RESIZE],
    "zoom_out": [RESIZE, {"type": "zoom_out", "p": 1.0}],
    "color": [{"type": "color", "brightness": 0.1, "contrast": 0.1, "saturation": 0.5, "hue": 0.5}, RESIZE],
    "photometric": [RESIZE, {"type": "photometric"}],
    "blur": [RESIZE, {"type": "blur", "p": 1.0}],
    "erase": [RESIZE, {"type": "erase", "p": 1.0}],
    "mosaic": [{"type": "mosaic", "p": 1.0}, RESIZE],
    "mixup": [RESIZE, {"type": "mixup", "p": 1.0}],
    "copy_paste": [RESIZE, {"type": "copy_paste", "p": 1.0}],
}
EVERYTHING = [
    *({"type": name} for name in ("mosaic", "mixup", "copy_paste", "iou_crop", "rotate90")),
    JITTER,
    *({"type": name} for name in ("flip", "vertical_flip", "zoom_out", "photometric", "color", "blur", "erase")),
    {"type": "crop", "size": [60, 60]},
]
CHAINS["everything"] = EVERYTHING
MAX_SHAPE = (96, 128)
OTHER_PIXELS = (
    "photometric",
    "erase",
    "mosaic",
    "mixup",
    "copy_paste",
    "everything",
)  # these add pixels that are not from the white square


def built(name, **options):
    return build_transforms(
        DataConfig.model_validate_json(json.dumps({"transforms": CHAINS[name]})).transforms, **options
    )


def run(name, sample, *, seed, epoch=0, close_at=None):
    planned = planned_image(MAX_SHAPE, shorter=90, longer=128, epoch=epoch)
    partners = partners_of(*[noise_sample(100 + n, 50 + 9 * n, 80 - 7 * n) for n in range(4)], planned=planned)
    return apply(built(name, close_at=close_at), sample, planned, partners, seed=seed)


def test_every_transform_of_the_schema_is_tested():
    named = {entry["type"] for chain in CHAINS.values() for entry in chain}
    assert named == {model.model_fields["type"].default for model in models_in(typing.get_args(Transform)[0])}


@pytest.mark.parametrize("name", CHAINS)
def test_samples_stay_valid_and_depend_on_the_seed_alone(name):
    for seed in range(2):
        before = noise_sample(seed, 100, 130)
        result = run(name, before, seed=seed)
        # Resizing keeps every box, however small, and rounds; rotated images are shrunk after the last transform.
        max_shape = None if name in ("rotate90", "everything") else MAX_SHAPE
        assert_valid(result, max_shape, min_side=0.1, tolerance=1e-3)
        assert_same_sample(before, noise_sample(seed, 100, 130))  # the input is unchanged
        torch.rand(seed)
        assert_same_sample(run(name, before, seed=seed), result)


@pytest.mark.parametrize("name", CHAINS)
def test_image_without_boxes_is_transformed(name):
    result = run(name, grey_sample(100, 130, []), seed=0)
    if name not in ("mosaic", "mixup", "copy_paste", "everything"):
        assert result.boxes.shape == (0, 4) and result.labels.shape == result.is_crowd.shape == (0,)


@pytest.mark.parametrize("name", CHAINS)
def test_memory_layout_changes_no_pixel(name):
    """The decoder returns images with interleaved channels."""
    generator = torch.Generator().manual_seed(0)
    interleaved = torch.randint(256, (100, 131, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1)
    before = grey_sample(100, 131, [[40, 30, 90, 70]])
    results = [run(name, before._replace(image=i), seed=3) for i in (interleaved, interleaved.contiguous())]
    assert_same_sample(*results)


@pytest.mark.parametrize("name", [name for name in CHAINS if name not in OTHER_PIXELS])
@pytest.mark.parametrize(("size", "box"), [((100, 130), [40, 30, 90, 70]), ((41, 53), [10, 12, 45, 33])])
def test_white_square_stays_inside_its_box(size, box, name):
    for seed in range(2):
        result = run(name, grey_sample(*size, [box]), seed=seed)
        scale = 2.2 if "j" not in name and "crop" not in name else 4  # at most; edges are blurred by up to this
        blur = scale + (6 if name == "blur" else 0)  # three times the largest sigma
        for transformed in result.boxes:
            sides = transformed[2:] - transformed[:2]
            if (sides > 2 * blur + 2).all() and not covers(transformed, result.size, blur):
                assert_white_exactly_in(result.image, transformed, blur=blur)
        if "crop" not in name and "j" not in name:
            assert len(result.boxes) == 1


def covers(box, size, blur):
    """Whether an image is blank outside a box."""
    x1, y1, x2, y2 = box.tolist()
    return x1 <= blur and y1 <= blur and x2 >= size[1] - blur and y2 >= size[0] - blur


def test_other_seeds_give_other_samples():
    before = noise_sample(0, 100, 130)
    results = [run("everything", before, seed=seed) for seed in range(6)]
    assert len({result.image.numpy().tobytes() for result in results}) == 6


@pytest.mark.parametrize("name", ["mosaic", "mixup", "copy_paste", "zoom_out", "erase"])
def test_strong_transforms_are_off_from_the_closing_epoch_on(name):
    before = noise_sample(0, 100, 130)
    plain = run("resize", before, seed=0)
    on = run(name, before, seed=0, epoch=2)
    assert not torch.equal(on.image, plain.image)
    assert_same_sample(run(name, before, seed=0, epoch=2, close_at=3), on)
    for epoch in (3, 4, 100):
        assert_same_sample(run(name, before, seed=0, epoch=epoch, close_at=3), plain)


@pytest.mark.parametrize("name", ["flip", "vertical_flip", "rotate90", "crop", "color", "blur", "iou_crop"])
def test_other_transforms_are_never_off(name):
    before = noise_sample(0, 100, 130)
    assert_same_sample(run(name, before, seed=1, epoch=5, close_at=0), run(name, before, seed=1, epoch=5))
