"""Build the assignment rule that a config selects."""

from functools import partial

from retinanet.config import AssignmentConfig, ATSSAssignmentConfig, IoUAssignmentConfig
from retinanet.detection.assignment import Assign, assign
from retinanet.detection.atss import assign_atss


def build_assignment(cfg: AssignmentConfig) -> Assign:
    """Return `assign` or `assign_atss` with the config's settings bound."""
    match cfg:
        case IoUAssignmentConfig():
            return partial(
                assign,
                fg_iou=cfg.fg_iou,
                bg_iou=cfg.bg_iou,
                low_quality_matches=cfg.low_quality_matches,
                match_every_object=cfg.match_every_object,
                ignore_ioa=cfg.ignore_ioa,
            )
        case ATSSAssignmentConfig():
            return partial(assign_atss, anchors_per_level=cfg.anchors_per_level, ignore_ioa=cfg.ignore_ioa)
