import numpy as np

from retinanet.data.build import class_counts
from retinanet.data.coco import CocoData, Record


def record(labels, is_crowd):
    boxes = np.zeros((len(labels), 4), np.float32)
    return Record("", 1, 8, 8, boxes, np.array(labels, np.int64), np.array(is_crowd, bool))


def test_objects_are_counted_and_crowds_are_not():
    records = [record([0, 2, 2], [False, False, True]), record([], []), record([2, 0, 0], [False] * 3)]
    assert class_counts(CocoData(records, ("a", "b", "c", "d"), (1, 2, 3, 4), {})) == [3, 0, 2, 0]
    assert class_counts(CocoData([record([], [])], ("a", "b"), (1, 2), {})) == [0, 0]
