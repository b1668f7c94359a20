import numpy as np
import pytest

from retinanet.config import Config, DataConfig, ResizeConfig, TrainConfig
from retinanet.config.load import with_overrides
from retinanet.doctor.anchor_proposal import fit_anchors
from retinanet.doctor.recommend_levels import levels_with_p2, recommend_levels
from tests.helpers.datasets import dataset_of, image_record

CONFIG = Config(
    data=DataConfig(resize=ResizeConfig(shorter=(256,), longer=256, bucket_aspects=(1.0,))), train=TrainConfig(steps=1)
)


def squares(sides):
    """Images of 256 x 256 pixels, which are not resized, with eight squares of each side at random places."""
    random = np.random.default_rng(0)
    images = []
    for number, side in enumerate(sides):
        corners = random.integers(0, 256 - side, (8, 2)).tolist()
        images.append(
            image_record(height=256, width=256, boxes=[(x, y, x + side, y + side) for x, y in corners], image_id=number)
        )
    return dataset_of(images)


def advice(dataset, cfg=CONFIG):
    return recommend_levels(dataset, cfg, fit_anchors(dataset, cfg), max_objects=None)


def test_p2_is_recommended_for_small_objects_with_its_coverage_and_cost():
    dataset = squares([9, 10, 60, 100])
    levels, proposal = advice(dataset)
    assert levels.lines == ("model.levels=p2..p7",)
    # Half of the objects are small. P3 has no anchor below 16 pixels: 10 x 10 in 16 x 16 is an IoU of at most 0.39.
    assert levels.sentence.startswith("50 % of the objects have fewer than 16 pixels after the resize")
    assert "50.0 % of all objects reach an IoU of 0.5" in levels.sentence
    assert f"with P2, these are {100 * proposal.shares[1]:.1f} % and 0" in levels.sentence
    assert "times as much time" in levels.sentence and "times as much memory" in levels.sentence
    assert proposal.shares[1] > 0.9
    assert proposal.anchors.strides == (4, 8, 16, 32, 64, 128)
    changed = with_overrides(CONFIG, levels.lines, source="test")
    again = advice(dataset, changed)
    assert (again.recommendation.lines, again.proposal.anchors) == ((), proposal.anchors)
    assert "already has P2" in again.recommendation.sentence


@pytest.mark.parametrize("sides", [[20, 40, 60, 100], [100] * 20 + [9]])  # no small object, fewer than 5 %
def test_p3_is_enough_for_larger_objects(sides):
    dataset = squares(sides)
    levels, proposal = advice(dataset)
    assert levels.lines == () and "p3..p7 is enough" in levels.sentence
    assert proposal.anchors == fit_anchors(dataset, CONFIG).anchors


def test_p2_is_not_recommended_if_it_hardly_covers_more():
    """Anchors of 16 pixels cover squares of 15 pixels as well as smaller anchors do."""
    levels, _ = advice(squares([15, 15, 60, 100]))
    assert levels.lines == () and "P2 would hardly help" in levels.sentence


def test_nothing_is_recommended_without_objects():
    levels, _ = advice(dataset_of([image_record(boxes=[])]))
    assert levels.lines == () and "no objects" in levels.sentence


def test_sizes_that_were_set_are_extended_by_half_the_size_of_p3():
    cfg = with_overrides(CONFIG, ["model.levels=p3..p6", "model.anchors.sizes=[20, 40, 80, 160]"], source="test")
    assert levels_with_p2(cfg) == ["model.levels=p2..p6", "model.anchors.sizes=[10, 20, 40, 80, 160]"]
    assert with_overrides(cfg, levels_with_p2(cfg), source="test").model.anchors.sizes == (10, 20, 40, 80, 160)
    assert levels_with_p2(CONFIG) == ["model.levels=p2..p7"]
