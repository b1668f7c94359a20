import os
from pathlib import Path

import pytest

from retinanet.config import (
    AnchorConfig,
    ATSSAssignmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    ResizeConfig,
    TrainConfig,
)
from retinanet.config.load import load_config, with_overrides
from retinanet.data.build import load_train_data, load_val_data
from retinanet.doctor import anchor_proposal
from retinanet.doctor.anchor_proposal import fit_anchors
from retinanet.doctor.anchors import match_quality
from tests.helpers.datasets import dataset_of, image_record

BLOOD_CELLS = Path(os.environ.get("RETINANET_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "bccd"
RESIZE = ResizeConfig(shorter=(128,), longer=128, bucket_aspects=(1.0,), divisor=32)
CONFIG = Config(
    data=DataConfig(resize=RESIZE),
    model=ModelConfig(anchors=AnchorConfig(scales=(1.0,), aspect_ratios=(1.0,))),
    train=TrainConfig(steps=1),
)


def uniform(width, height, count=8):
    """Images of 128 x 128 pixels, each with one object of the given size, at different positions."""
    boxes = [(7 * n, 5 * n, 7 * n + width, 5 * n + height) for n in range(1, count + 1)]
    return dataset_of([image_record(height=128, width=128, boxes=[box], image_id=n) for n, box in enumerate(boxes)])


def test_proposal_raises_the_share_of_objects_with_a_good_anchor():
    # An object of 20 x 60 shares at most 640 of 1424 pixels with an anchor of 32 x 32: IoU 0.45.
    proposal = fit_anchors(uniform(20, 60), CONFIG)
    assert proposal.is_better
    assert proposal.shares == (0, 1)
    assert proposal.after.total.mean_iou > proposal.before.total.mean_iou
    assert len(proposal.config_lines()) == 3
    changed = with_overrides(CONFIG, proposal.config_lines(), source="proposal")
    assert changed.model.anchors == proposal.anchors
    assert fit_anchors(uniform(20, 60), CONFIG).anchors == proposal.anchors  # deterministic


def test_proposal_for_atss_uses_an_iou_of_one_half():
    proposal = fit_anchors(uniform(20, 60), CONFIG.model_copy(update={"assignment": ATSSAssignmentConfig()}))
    assert (proposal.fg_iou, proposal.shares) == (0.5, (0, 1))


def test_perfect_anchors_are_kept():
    images = [image_record(height=128, width=128, boxes=[(48, 48, 80, 80)])]  # an anchor of 32 pixels around (64, 64)
    proposal = fit_anchors(dataset_of(images), CONFIG)
    assert not proposal.is_better
    assert (proposal.anchors, proposal.after, proposal.config_lines()) == (CONFIG.model.anchors, proposal.before, [])


def test_better_anchors_outside_the_search_bounds_are_kept():
    # Anchors of one stride match objects of 8 pixels, and the search would not go below two.
    small = CONFIG.model.anchors.model_copy(update={"sizes": (8.0, 16.0, 32.0, 64.0, 128.0)})
    cfg = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"anchors": small})})
    proposal = fit_anchors(uniform(8, 8), cfg)
    assert not proposal.is_better
    assert proposal.anchors == small


def test_a_proposal_that_is_worse_in_one_respect_is_rejected(monkeypatch):
    # With the anchor of 32 x 32, the objects of 24 x 48 and 30 x 26 have IoUs of 768 / 1408 and 780 / 1024 (0.76).
    # With 24 x 48, these are 1 and 624 / 1308 = 0.48: the mean rises, but only one object is left above 0.5.
    boxes = [(52, 40, 76, 88), (9, 91, 39, 117)]
    dataset = dataset_of([image_record(height=128, width=128, boxes=boxes)])
    worse = AnchorConfig(sizes=(34, 256, 256, 512, 1024), scales=(1.0,), aspect_ratios=(2.0,))
    other = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"anchors": worse})})
    assert match_quality(dataset, other).total.mean_iou > match_quality(dataset, CONFIG).total.mean_iou + 0.05
    monkeypatch.setattr(anchor_proposal, "fit_score", lambda boxes, cfg: float(cfg == worse))
    monkeypatch.setattr(anchor_proposal, "fit_shapes", lambda boxes, current: worse)
    proposal = fit_anchors(dataset, CONFIG)
    assert not proposal.is_better
    assert proposal.anchors == CONFIG.model.anchors


def test_dataset_without_objects_has_no_proposal():
    proposal = fit_anchors(dataset_of([image_record(boxes=[])]), CONFIG)
    assert (proposal.is_better, proposal.config_lines()) == (False, [])


def test_a_sample_is_stated_in_both_reports():
    proposal = fit_anchors(uniform(20, 60), CONFIG, max_objects=4)
    for report in (proposal.before, proposal.after):
        assert (report.num_images, report.total.objects) == (8, pytest.approx(5, abs=1))
    assert proposal.before.dataset.image_ids == proposal.after.dataset.image_ids


@pytest.mark.slow
@pytest.mark.skipif(
    not BLOOD_CELLS.is_dir(), reason=f"no dataset in {BLOOD_CELLS}; set RETINANET_DATA to the folder that contains bccd"
)
def test_anchors_fitted_to_blood_cells_match_more_objects_of_another_split():
    sources = {"train": "instances_train.json", "val": "instances_test.json"}
    overrides = [f"data.{part}.images={BLOOD_CELLS / 'JPEGImages'}" for part in sources]
    overrides += [f"data.{part}.annotations={BLOOD_CELLS / name}" for part, name in sources.items()]
    cfg = load_config("bccd_r18", overrides)
    train = load_train_data(cfg)
    proposal = fit_anchors(train, cfg)
    assert proposal.is_better
    other = load_val_data(cfg, train.class_names)
    before = match_quality(other, cfg)
    after = match_quality(other, with_overrides(cfg, proposal.config_lines(), source="proposal"))
    assert after.total.reaching[0.5] > before.total.reaching[0.5]
    assert after.by_class["Platelets"].reaching[0.5] > before.by_class["Platelets"].reaching[0.5] + 0.05
