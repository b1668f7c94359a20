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
    assert drawn.shape == (3, 50, 60) and torch.equal(drawn[:, 45:], image[shown][:, 45:])
