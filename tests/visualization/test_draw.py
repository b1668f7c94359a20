import pytest
import torch
from PIL import ImageFont, features

from retinanet.structures import Detections
from retinanet.visualization.draw import as_rgb, class_color, draw_detections

NAMES = ("one", "two")


def detections(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ([], [], [])
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


def test_box_outline_is_drawn_on_a_copy_of_the_image():
    image = torch.zeros(3, 100, 120, dtype=torch.uint8)
    drawn = draw_detections(image, detections(([20.0, 30.0, 80.0, 90.0], 0.9, 1)), NAMES)
    assert image.sum() == 0
    assert tuple(drawn[:, 90, 50].tolist()) == class_color(1, 2)
    assert drawn[:, 60, 50].sum() == 0  # inside
    assert drawn[:, 60, 110].sum() == 0  # outside


def test_image_is_unchanged_without_detections_above_min_score():
    image = torch.randint(0, 255, (3, 50, 60), dtype=torch.uint8)
    assert torch.equal(draw_detections(image, detections(([5.0, 5.0, 20.0, 20.0], 0.2, 0)), NAMES), image)
    assert torch.equal(draw_detections(image, detections(), NAMES), image)


def test_box_beyond_the_image_is_drawn_at_its_edge():
    image = torch.zeros(3, 50, 60, dtype=torch.uint8)
    drawn = draw_detections(image, detections(([-10.0, -10.0, 100.0, 100.0], 0.9, 0)), NAMES)
    assert drawn[:, 49, 30].sum() > 0


def test_neighbouring_labels_have_different_colours():
    assert len({class_color(label, 80) for label in range(80)}) == 80


@pytest.mark.parametrize("has_freetype", [True, False])
def test_class_names_in_any_script_are_drawn_or_escaped(monkeypatch, has_freetype):
    if not has_freetype:
        monkeypatch.setattr(features, "check", lambda feature: False)
        monkeypatch.setattr(ImageFont, "load_default", ImageFont.load_default_imagefont)
    image = torch.zeros(3, 80, 120, dtype=torch.uint8)
    found = detections(([20.0, 30.0, 80.0, 70.0], 0.9, 0))
    drawn = draw_detections(image, found, ["方块 é"])
    assert not torch.equal(drawn, draw_detections(image, found, [""]))


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (6, [0, 1, 2])])
def test_images_with_other_numbers_of_channels_are_drawn_as_rgb(channels, shown):
    image = torch.randint(0, 255, (channels, 50, 60), dtype=torch.uint8)
    assert torch.equal(as_rgb(image), image[shown])
    assert torch.equal(draw_detections(image, detections(), NAMES), image[shown])
    drawn = draw_detections(image, detections(([5.0, 5.0, 40.0, 40.0], 0.9, 0)), NAMES)
    assert drawn.shape == (3, 50, 60)


def test_without_labels_only_outlines_are_drawn():
    image = torch.zeros(3, 100, 120, dtype=torch.uint8)
    found = detections(([20.0, 30.0, 80.0, 90.0], 0.9, 1))
    drawn = draw_detections(image, found, NAMES, labels=False)
    # An outline of one pixel: 2 x 61 + 2 x 59 pixels of a rectangle of 61 x 61.
    assert int(drawn.any(0).sum()) == 240
    assert int(draw_detections(image, found, NAMES).any(0).sum()) > 240


def test_label_is_readable_inside_the_image_for_boxes_at_every_edge():
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    for box in (
        [0.0, 0.0, 20.0, 20.0],
        [280.0, 0.0, 299.0, 20.0],
        [280.0, 180.0, 299.0, 199.0],
        [0.0, 0.0, 299.0, 199.0],
    ):
        found = detections((box, 0.9, 1))
        label = (draw_detections(image, found, NAMES) != draw_detections(image, found, NAMES, labels=False)).any(0)
        rows, columns = label.nonzero().T
        assert int(rows.max() - rows.min()) >= 9 and int(columns.max() - columns.min()) >= 40


def test_font_grows_with_the_image():
    heights = []
    for side in (200, 2000):
        image = torch.zeros(3, side, side, dtype=torch.uint8)
        found = detections(([side / 2, side / 2, side / 2 + 9, side / 2 + 9], 0.9, 1))
        label = (draw_detections(image, found, NAMES) != draw_detections(image, found, NAMES, labels=False)).any(0)
        rows = label.nonzero()[:, 0]
        heights.append(int(rows.max() - rows.min()))
    assert heights[1] > 3 * heights[0]


def test_lines_and_letters_of_another_size():
    small, large = torch.zeros(3, 200, 200, dtype=torch.uint8), torch.zeros(3, 2000, 2000, dtype=torch.uint8)
    found = detections(([20.0, 30.0, 120.0, 130.0], 0.9, 1))
    expected = draw_detections(small, found, NAMES)
    drawn = draw_detections(large, found, NAMES, side=200)
    assert torch.equal(drawn[:, :200, :200], expected) and not drawn[:, 200:].any() and not drawn[:, :, 200:].any()
    assert not torch.equal(draw_detections(large, found, NAMES)[:, :200, :200], expected)


def test_a_long_name_is_written_smaller():
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    name = "a long class name"
    drawn = draw_detections(image, detections(([5.0, 30.0, 40.0, 60.0], 0.9, 0)), [name])
    assert drawn[:, :, 95].sum() == 0  # the label ends before the edge
    assert drawn[:, 22:28, 60:80].sum() > 0
