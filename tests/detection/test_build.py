from retinanet.config import ATSSAssignmentConfig, IoUAssignmentConfig
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.assignment import assign
from retinanet.detection.atss import assign_atss
from retinanet.detection.build import build_assignment
from tests.helpers.assignment import CROWD, OBJECT, per_anchor, targets_of

GRIDS = AnchorGenerator(strides=(16, 64), sizes=(24, 90), rounding="torchvision")(64, 48)


def test_config_selects_the_rule_and_its_settings():
    box = (4, 4, 30, 40)  # of two equal objects, the second gets an anchor only with `match_every_object`
    targets = targets_of([(box, OBJECT), ((20, 0, 48, 20), OBJECT), (box, OBJECT), ((0, 0, 20, 64), CROWD)])
    cases = [
        (IoUAssignmentConfig(), assign(GRIDS, targets)),
        (
            IoUAssignmentConfig(fg_iou=0.7, bg_iou=0.2, low_quality_matches=False, ignore_ioa=0.25),
            assign(GRIDS, targets, fg_iou=0.7, bg_iou=0.2, low_quality_matches=False, ignore_ioa=0.25),
        ),
        (IoUAssignmentConfig(match_every_object=True), assign(GRIDS, targets, match_every_object=True)),
        (ATSSAssignmentConfig(), assign_atss(GRIDS, targets)),
        (
            ATSSAssignmentConfig(anchors_per_level=27, ignore_ioa=0.25),
            assign_atss(GRIDS, targets, anchors_per_level=27, ignore_ioa=0.25),
        ),
    ]
    for cfg, expected in cases:
        assert per_anchor(build_assignment(cfg)(GRIDS, targets)) == per_anchor(expected)
    results = [per_anchor(expected) for _, expected in cases]
    assert all(results.count(result) == 1 for result in results)
