"""Settings that change AP are reported."""

import pytest

from retinanet.config import Config, TrainConfig
from retinanet.config.load import with_overrides
from retinanet.evaluation.settings import settings_that_change_ap


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("postprocess.min_score=0.3", "postprocess.min_score is 0.3 instead of 0.05: detections with lower scores are"),
        ("postprocess.max_detections=20", "postprocess.max_detections is 20 instead of 100, which lowers AP"),
        ("evaluation.max_detections=300", "evaluation.max_detections is 300: AP is not the one that COCO defines"),
        ("postprocess.min_score=0.001", None),
        ("postprocess.max_detections=300", None),
        ("postprocess.nms_iou=0.6", None),
    ],
)
def test_setting_is_reported_if_it_makes_ap_incomparable(override, expected):
    notes = settings_that_change_ap(with_overrides(Config(train=TrainConfig(steps=1)), [override], source="test"))
    assert len(notes) == (expected is not None)
    assert expected is None or notes[0].startswith(expected)
