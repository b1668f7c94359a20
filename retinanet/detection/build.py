"""The assignment that a config asks for."""

from functools import partial

from retinanet.config import AssignmentConfig
from retinanet.detection.assignment import Assign, assign
from retinanet.detection.atss import assign_atss


def build_assignment(cfg: AssignmentConfig) -> Assign:
    match cfg.type:
        case "iou":
            return partial(
                assign,
                fg_iou=cfg.fg_iou,
                bg_iou=cfg.bg_iou,
                low_quality_matches=cfg.low_quality_matches,
                ignore_ioa=cfg.ignore_ioa,
            )
        case "atss":
            return partial(assign_atss, anchors_per_level=cfg.anchors_per_level, ignore_ioa=cfg.ignore_ioa)
