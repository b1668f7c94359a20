"""Training views: colours of boxes and anchors, and the choice of images."""

import pytest
import torch
from PIL import Image

from retinanet.config.load import load_config, with_overrides
from retinanet.data.build import load_train_data
from retinanet.doctor.anchors import match_quality
from retinanet.doctor.views import ANCHOR, LEARNT, UNMATCHED, choose_images, training_views, transform_views
from tests.helpers.planted import LARGE, CocoFolder, overrides_of

# Without low-quality matches, a one-pixel object has no anchor.
MODEL = ["data.transforms=[{type: resize}]", "model.anchors.sizes=[32, 64, 128, 256, 512]",
         "assignment.low_quality_matches=false"]  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Six black images of 96 x 64: the first without objects, the fifth with a one-pixel object beside a large one."""
    folder = tmp_path_factory.mktemp("black")
    part = CocoFolder(folder, "train", ("cat",))
    for number, boxes in enumerate([[], [LARGE], [LARGE], [LARGE], [LARGE, [70, 30, 1, 1]], [LARGE]]):
        Image.new("RGB", (96, 64)).save(part.add(f"{number}.png", *boxes))
    part.save()
    cfg = load_config("quickstart", [*overrides_of(folder), "data.val=[]", *MODEL])
    return cfg, load_train_data(cfg)


def color(text):
    return torch.tensor([int(text[start : start + 2], 16) for start in (1, 3, 5)], dtype=torch.uint8)


def where(image, text):
    """Left, top, right and bottom of the pixels of a colour; None if there are none."""
    rows, columns = torch.where((image == color(text)[:, None, None]).all(dim=0))
    return None if not len(rows) else [f(x).item() for f in (torch.amin, torch.amax) for x in (columns, rows)]


def test_colours(dataset):
    """Black images are enlarged 4 times, to at least 320 pixels. Box edges are drawn 2 pixels wide around the line."""
    cfg, data = dataset
    ((_, views),) = training_views(cfg, data, [4])
    image = views[0].image
    assert image.shape == (3, 4 * 64, 4 * 96)
    x, y, width, height = (4 * side for side in LARGE)
    assert where(image, LEARNT) == pytest.approx([x, y, x + width, y + height], abs=2)
    assert where(image, UNMATCHED) == pytest.approx([280, 120, 284, 124], abs=2)
    assert where(image, ANCHOR) is not None
    assert views[0].caption.startswith("epoch 1: 2 object(s), ") and views[0].caption.endswith(", 1 without an anchor")
    assert [view.caption.partition(":")[0] for view in views] == ["epoch 1", "epoch 2", "epoch 3"]


def test_image_without_objects(dataset):
    cfg, data = dataset
    ((path, views),) = training_views(cfg, data, [0])
    assert path == data.paths[0] and not views[0].image.any()
    assert views[0].caption == "epoch 1: 0 object(s), 0 anchor(s)"


def test_each_transform_is_applied_alone(dataset):
    """LARGE is 8 from the top and 40 high. A vertical flip moves it to 16 from the top, a flip to the right."""
    cfg, data = dataset
    overrides = ["data.transforms=[{type: vertical_flip}, {type: scale_jitter, min: 0.5, max: 0.5}, {type: flip}]"]
    views = transform_views(with_overrides(cfg, overrides, source="test"), data, [1])
    assert [view.caption for view in views] == [
        "vertical_flip (p: 0.5)",
        "scale_jitter (min: 0.5, max: 0.5)",
        "flip (p: 0.5)",
    ]
    assert where(views[0].image, LEARNT) == pytest.approx([40, 64, 200, 224], abs=2)
    assert where(views[2].image, LEARNT) == pytest.approx([4 * (96 - 50), 32, 4 * (96 - 10), 192], abs=2)
    factor = views[1].image.shape[2] / 48
    assert where(views[1].image, LEARNT) == pytest.approx([5 * factor, 4 * factor, 25 * factor, 24 * factor], abs=2)


def test_images_with_lost_objects_are_chosen_and_unusable_ones_are_not(dataset):
    cfg, data = dataset
    report = match_quality(data, cfg)
    assert choose_images(report, data, 2) == [1, 4]
    assert choose_images(report, data, 2, unusable=[1, 4]) == [2, 5]
    assert choose_images(report, data, 9) == [1, 2, 3, 4, 5]  # those without objects only if there are no others
    assert choose_images(report, data, 9, unusable=range(1, 6)) == [0]
    assert choose_images(report, data, 9, unusable=range(6)) == []
