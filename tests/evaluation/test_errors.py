"""Parts of the error report agree with each other on every kind of dataset."""

from dataclasses import replace

import numpy as np
import pytest

from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.errors import analyse_errors
from retinanet.evaluation.matches import match_detections
from retinanet.formats.federated import Federated, pairs_of
from tests.helpers.datasets import dataset_from_coco
from tests.helpers.random_detections import FAMILIES, random_set


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_agree_on_random_sets(family):
    document, detections = random_set(1, **FAMILIES[family])
    dataset = dataset_from_coco(document)
    matches = match_detections(dataset, detections)
    num_classes = len(dataset.class_names)
    report = analyse_errors(dataset, detections, matches, thresholds=[-1] * num_classes)
    num_objects = int((~dataset.is_crowd).sum())

    scores = score_detections(dataset, detections).metrics
    if num_objects:
        assert report.oracles.ap == pytest.approx(scores["AP"], abs=1e-12) and report.tide.ap50 == pytest.approx(
            scores["AP50"], abs=1e-12
        )
        assert report.oracles.perfect_boxes >= scores["AP50"] - 1e-12
    # With thresholds below all scores, each detection that counts is in one field of the histogram and the
    # calibration, and each object in one row of the confusion matrix and one image.
    counted = int((~matches.is_ignored[0]).sum())
    assert report.histogram.true_positives.sum() + report.histogram.false_positives.sum() == counted
    assert sum(entry.count for entry in report.calibration.bins) == counted
    assert sum(kind.count for kind in report.tide.kinds[:-1]) == report.histogram.false_positives.sum()
    assert report.confusion[:-1].sum() == num_objects
    assert sum(image.num_objects for image in report.images) == matches.object_counts().sum()
    for image in report.images:
        assert image.true_positives + image.false_positives == np.count_nonzero(
            ~matches.is_ignored[0] & (matches.image_indices == image.image_index)
        )
    for error in report.label_errors:
        one = detections[error.image_index]
        assert float(one.scores[error.position]) == pytest.approx(error.score)
        assert int(one.labels[error.position]) == error.label
        if error.object_row is not None:
            assert matches.object_images[error.object_row] == error.image_index
            assert dataset.labels[error.object_row] != error.label


def test_a_federated_dataset_counts_no_detection_of_an_unverified_class():
    document, detections = random_set(1)
    dataset = dataset_from_coco(document)
    labels = range(len(dataset.class_names))
    nothing = pairs_of([[] for _ in dataset.paths])
    everything = pairs_of([list(labels) for _ in dataset.paths])
    for absent, verified in ((nothing, False), (everything, True)):
        federated = replace(dataset, federated=Federated(absent, nothing))
        matches = match_detections(federated, detections)
        report = analyse_errors(federated, detections, matches, thresholds=[0.0 for _ in labels])
        num_counted = np.count_nonzero(~matches.is_ignored[0])
        assert report.confusion[:, :-1].sum() == num_counted
        assert (num_counted == matches.is_ignored.shape[1]) == verified


def test_thresholds_are_exclusive_and_per_class():
    document, detections = random_set(1, coarse=True)
    dataset = dataset_from_coco(document)
    matches = match_detections(dataset, detections)
    thresholds = [0.5, 0.25, 1.0, 0.0]
    report = analyse_errors(dataset, detections, matches, thresholds=thresholds)
    for label, threshold in enumerate(thresholds):
        rows = (matches.labels == label) & ~matches.is_ignored[0]
        assert report.confusion[:, label].sum() == np.count_nonzero(matches.scores[rows] > threshold)
    assert report.confusion[:, 2].sum() == 0
