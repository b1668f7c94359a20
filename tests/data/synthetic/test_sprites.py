import numpy as np
import pytest
from PIL import Image, ImageFilter

from retinanet.data.synthetic.sprites import CLASSES, area_inside, draw_rim, draw_sprite, extent, paint


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(("x", "y"), [(20, 30), (-9, 30), (20, -7), (75, 77)])
def test_boxes_are_tight_even_at_the_border(kind, x, y):
    sprite = draw_sprite(kind, 30, np.random.default_rng(x + 100 * y + 1000))
    box, area = extent(sprite, x, y, 96, 96), area_inside(sprite, x, y, 96, 96)
    # The same shape on a canvas of quarter pixels, with a margin for the part outside the image.
    canvas = Image.new("L", (4 * 160, 4 * 160))
    canvas.paste(sprite.fine, (4 * (x + 32), 4 * (y + 32)))
    inside = canvas.crop((4 * 32, 4 * 32, 4 * 128, 4 * 128))
    assert box == tuple(edge / 4 for edge in inside.getbbox())
    assert area == np.count_nonzero(inside) / 16

    # The painted pixels agree with the box up to the faint pixels at its edge.
    planes = np.full((3, 96, 96), 128, dtype=np.int16)
    paint(planes, sprite, x, y, np.random.default_rng(1), 0)
    rows, columns = np.nonzero((planes != 128).any(axis=0))
    painted = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert np.abs(np.subtract(painted, box)).max() <= 1


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("size", [10, 57, 200])
def test_longer_box_side_is_the_requested_size(kind, size):
    sprite = draw_sprite(kind, size, np.random.default_rng(size))
    x1, y1, x2, y2 = extent(sprite, 0, 0, 256, 256)
    assert max(x2 - x1, y2 - y1) == size


@pytest.mark.parametrize(("x", "y"), [(40, 5), (-30, 5), (5, 40), (5, -30)])
def test_sprite_outside_the_image_has_neither_box_nor_area(x, y):
    sprite = draw_sprite("disc", 24, np.random.default_rng(0))
    assert extent(sprite, x, y, 40, 40) == (0, 0, 0, 0)
    assert area_inside(sprite, x, y, 40, 40) == 0


@pytest.mark.parametrize("kind", CLASSES)
def test_rim_lies_inside_the_shape_and_along_its_edge(kind):
    sprite = draw_sprite(kind, 60, np.random.default_rng(3))
    rim = draw_rim(sprite)
    assert rim.shape == sprite.cover.shape
    assert (rim <= sprite.cover).all()
    edge = (sprite.cover > 0) & (sprite.cover < 255)
    assert (rim[edge] > 0).all()
    # The rim is at most 0.1 * 60 pixels wide, half of it inside: it ends less than 4 pixels from the edge.
    deep = np.asarray(Image.fromarray(sprite.cover).filter(ImageFilter.MinFilter(9))) == 255
    assert deep.any() and not rim[deep].any()
