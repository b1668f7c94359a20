"""Complete classes of an image in a federated dataset."""

import numpy as np
import pytest

from retinanet.formats.federated import Federated


def pairs(*rows):
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


# Classes 0 to 4. Image 3 has annotations of 0 and 1: all objects of 0 are annotated, but not all of 1. Class 2 is
# absent, and 3 was not checked. Class 4 is contradictory: absent and incomplete.
SOME = Federated(pairs((2, 0), (2, 3), (3, 2), (3, 4), (5, 3)), pairs((2, 1), (3, 1), (3, 4), (4, 0)))


@pytest.mark.parametrize(
    ("image", "annotated", "complete"),
    [
        (3, [1, 0, 1], [True, False, True, False, False]),
        (2, [1], [True, False, False, True, False]),  # image 2: 0 and 3 are absent, 1 is incomplete
        (4, [0, 2], [False, False, True, False, False]),  # image 4: 0 is incomplete, 2 is annotated
        (5, [], [False, False, False, True, False]),  # the last pair of all
        (0, [], [False] * 5),  # images without pairs
        (9, [4], [False, False, False, False, True]),
    ],
)
def test_complete_classes_are_absent_or_annotated_and_not_incomplete(image, annotated, complete):
    found = SOME.complete_labels(image, np.array(annotated, dtype=np.int64), num_classes=5)
    assert found.dtype == bool and found.tolist() == complete


def test_merged_class_needs_every_part():
    """Categories 0 and 1 are label 0; in image i, category 0 is annotated, and 1 is ..."""
    absent = pairs((1, 1), (3, 1))
    incomplete = pairs((3, 0))
    annotated = pairs((0, 0), (0, 0), (1, 0), (2, 0), (2, 1), (3, 0))
    merged = Federated(absent, incomplete).relabel(np.array([0, 0, -1]), annotated)
    assert merged.absent.tolist() == []
    # 0: not checked; 1: absent; 2: annotated too; 3: absent, but 0 itself is incomplete
    assert merged.incomplete.tolist() == [[0, 0], [3, 0]]


def test_pairs_of_no_image_are_empty():
    empty = Federated(pairs(), pairs()).relabel(np.array([0, -1]), pairs())
    assert empty.absent.shape == empty.incomplete.shape == (0, 2)
    assert not empty.complete_labels(0, np.zeros(0, dtype=np.int64), num_classes=1).any()
