import hashlib
import platform

import numpy as np
import PIL
import pytest

from retinanet.data.synthetic import scene, shapes
from retinanet.data.synthetic.scene import Scene, draw_image
from retinanet.data.synthetic.sprites import CLASSES, draw_sprite, extent, paint


@pytest.mark.skipif(
    (PIL.__version__, np.__version__, platform.machine()) != ("13.0.0", "2.4.6", "x86_64"),
    reason="the digest was taken with Pillow 13.0.0 and NumPy 2.4.6 on x86-64; others may draw edges differently",
)
def test_drawing_version_is_raised_with_every_change_of_the_drawing():
    # From `draw_image(0, "train", 7)`, which contains a crowd.
    # If this fails after a change to scene.py or sprites.py, raise DRAWING_VERSION and update the digest.
    pixels, annotations = draw_image(0, "train", 7)
    digest = hashlib.sha256(pixels.tobytes() + repr(annotations).encode()).hexdigest()[:16]
    assert (shapes.DRAWING_VERSION, digest) == (1, "ef8548c3f8b53d68")


def recorded_drawing(monkeypatch, index):
    """Size of an image, its annotations, and the painted shapes in order: (kind, size, sprite, x, y)."""
    made, painted = {}, []

    def draw_and_record(kind, size, rng):
        sprite = draw_sprite(kind, size, rng)
        made[id(sprite)] = kind, size, sprite
        return sprite

    def paint_and_record(planes, sprite, x, y, rng, label):
        painted.append((*made[id(sprite)], x, y))
        paint(planes, sprite, x, y, rng, label)

    monkeypatch.setattr(scene, "draw_sprite", draw_and_record)
    monkeypatch.setattr(scene, "paint", paint_and_record)
    pixels, annotations = draw_image(0, "train", index)
    return pixels.shape[:2], annotations, painted


@pytest.mark.parametrize("index", range(0, 60, 4))
def test_labelled_objects_are_at_least_60_percent_visible(monkeypatch, index):
    (height, width), annotations, painted = recorded_drawing(monkeypatch, index)
    labels = [annotation.label for annotation in annotations if not annotation.is_crowd]
    objects = painted[len(painted) - len(labels) :]
    assert [kind for kind, *_ in objects] == [CLASSES[label] for label in labels]
    margin = 256  # so that pixels outside the image border are counted too
    topmost = np.full((height + 2 * margin, width + 2 * margin), -1)
    totals = []
    for i, (_, _, sprite, x, y) in enumerate(objects):
        mask = sprite.cover >= 128
        rows, columns = slice(y + margin, y + margin + mask.shape[0]), slice(x + margin, x + margin + mask.shape[1])
        topmost[rows, columns][mask] = i
        totals.append(mask.sum())
    seen = topmost[margin:-margin, margin:-margin]
    assert [i for i, total in enumerate(totals) if (seen == i).sum() < 0.4 * total] == []


def test_crowd_is_a_dense_cluster_of_one_class(monkeypatch):
    _, annotations, painted = recorded_drawing(monkeypatch, 7)
    (crowd,) = (annotation for annotation in annotations if annotation.is_crowd)
    num_objects = len(annotations) - 1
    members = [entry for entry in painted[: len(painted) - num_objects] if entry[0] in CLASSES]
    assert 12 <= len(members) <= 30
    assert {kind for kind, *_ in members} == {CLASSES[crowd.label]}
    assert all(10 <= size <= 24 for _, size, *_ in members)
    boxes = np.array([extent(sprite, x, y, 320, 320) for _, _, sprite, x, y in members])
    assert crowd.box == (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))
    x1, y1, x2, y2 = crowd.box
    assert crowd.area > 0.25 * (x2 - x1) * (y2 - y1)


@pytest.mark.parametrize("seed", range(8))
def test_finish_is_exact_far_outside_the_range_of_a_pixel(seed):
    drawn, expected = (np.random.default_rng(seed) for _ in range(2))
    image = Scene(drawn)
    expected.bit_generator.state = drawn.bit_generator.state
    image.planes = np.random.default_rng(100 + seed).integers(-3000, 3000, image.planes.shape, dtype=np.int16)
    contrast, brightness, strength = (int(expected.integers(*span)) for span in ((40, 76), (-30, 31), (1, 7)))
    noise = expected.integers(-strength, strength + 1, image.planes.shape, dtype=np.int8)
    # The same formula in 64 bits, which cannot overflow here.
    exact = np.floor_divide((image.planes.astype(np.int64) - 128) * contrast, 64) + 128 + brightness + noise
    np.testing.assert_array_equal(image.finish(), exact.clip(0, 255).transpose(1, 2, 0))
