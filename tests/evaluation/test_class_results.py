"""The table of classes."""

import math

from retinanet.evaluation.bootstrap import Interval
from retinanet.evaluation.class_results import ClassResult, class_table
from retinanet.evaluation.operating_points import BEST_F1, OperatingPoint, Requirement

CELL = ClassResult("red cell", 805, 0.6, 0.875, OperatingPoint(0.69, 0.9, 0.8, 0.847))
NOTHING = ClassResult("none", 0, math.nan, math.nan, None)


def test_table_is_aligned_and_marks_missing_values():
    assert class_table([CELL, NOTHING], BEST_F1).splitlines() == [
        "class     objects     AP   AP50  score >  precision  recall  best F1",
        "red cell      805  0.600  0.875    0.690      0.900   0.800    0.847",
        "none            0      -      -        -          -       -        -",
    ]


def test_table_with_intervals_and_another_requirement():
    rows = [
        CELL._replace(ap_interval=Interval(0.6, 0.55, 0.64)),
        NOTHING._replace(ap_interval=Interval(*[math.nan] * 3)),
    ]
    assert class_table(rows, Requirement(precision=0.9)).splitlines() == [
        "class     objects     AP   95 % interval   AP50  score >  precision  recall     F1",
        "red cell      805  0.600  0.550 to 0.640  0.875    0.690      0.900   0.800  0.847",
        "none            0      -               -      -        -          -       -      -",
    ]
