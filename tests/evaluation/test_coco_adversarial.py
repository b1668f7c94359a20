"""hotcoco against pycocotools and lvis, on sets in which hypothesis combines everything that is hard to score."""

import logging
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.detection_table import ranks
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections
from tests.helpers.coco_scores import assert_equal_to_pycocotools
from tests.helpers.datasets import dataset_from_coco
from tests.helpers.random_detections import federated, random_set

try:
    from lvis.eval import LVISEval
    from lvis.lvis import LVIS
    from lvis.results import LVISResults
except ImportError:
    LVIS = LVISEval = LVISResults = None

ADVERSARIAL = {
    "objects": st.sampled_from([0, 1, 8]),
    "detections": st.sampled_from([0, 1, 20, 250]),
    "crowds": st.sampled_from([0.0, 0.4, 1.0]),
    "coarse": st.booleans(),
    "gapped": st.booleans(),
    "borders": st.booleans(),
    "degenerate": st.booleans(),
}
IDS = st.sampled_from([{}, {"texts": True}, {"huge": True}])
SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.sampled_from([1, 2, 5]), IDS, st.fixed_dictionaries(ADVERSARIAL))
def test_equal_to_pycocotools_on_adversarial_sets(seed, classes, ids, arguments):
    assert_equal_to_pycocotools(*random_set(seed, classes=classes, **ids, **arguments))


@pytest.mark.slow
@settings(deadline=None, max_examples=3)
@given(SEEDS, st.booleans())
def test_equal_to_pycocotools_with_1203_classes(seed, gapped):
    assert_equal_to_pycocotools(*random_set(seed, classes=1203, objects=30, detections=60, gapped=gapped))


def by_lvis(dataset: Dataset, detections: dict[int, Detections]) -> tuple[dict[str, float], np.ndarray]:
    """AP metrics, and AP by rank of the category, of the lvis package."""
    logging.getLogger("lvis").setLevel(logging.ERROR)
    image_ranks, category_ranks = ranks(dataset.image_ids).tolist(), ranks(dataset.category_ids).tolist()
    images = [{"id": number, "height": 300, "width": 300} for number in image_ranks]
    for key, pairs in (
        ("neg_category_ids", dataset.federated.absent),
        ("not_exhaustive_category_ids", dataset.federated.incomplete),
    ):
        for index, image in enumerate(images):
            image[key] = [category_ranks[label] for label in pairs[pairs[:, 0] == index, 1].tolist()]
    annotations = [
        {"id": row + 1, "image_id": image_ranks[image], "category_id": category_ranks[label], "bbox": box, "area": area}
        for row, (image, label, box, area) in enumerate(
            zip(
                np.repeat(np.arange(len(dataset)), np.diff(dataset.box_start)).tolist(),
                dataset.labels.tolist(),
                dataset.boxes_xywh.tolist(),
                dataset.areas.tolist(),
                strict=True,
            )
        )
    ]
    truth = LVIS.__new__(LVIS)  # its constructor reads a file
    truth.logger = logging.getLogger("lvis")
    truth.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": str(number), "frequency": "f"} for number in sorted(category_ranks)],
    }
    truth._create_index()
    results = []
    for index in sorted(detections, key=lambda index: image_ranks[index]):
        found = detections[index]
        corners = found.boxes.double()
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        for box, score, label in zip(boxes, found.scores.tolist(), found.labels.tolist(), strict=True):
            category = category_ranks[label]
            results.append({"image_id": image_ranks[index], "category_id": category, "bbox": box, "score": score})
    evaluation = LVISEval(truth, LVISResults(truth, results), "bbox")
    with mock.patch.object(np, "float", float, create=True):  # lvis 0.5.3 uses the alias that NumPy 1.24 removed
        evaluation.run()
    precision = evaluation.eval["precision"][:, :, :, 0]  # (T, recall, class)
    of_class = [values.mean() if (values > -1).all() else np.nan for values in np.moveaxis(precision, 2, 0)]
    metrics = {name: np.nan if value == -1 else value for name, value in evaluation.results.items()}
    return metrics, np.array(of_class)


@pytest.mark.skipif(LVIS is None, reason="needs the lvis package, whose OpenCV needs libGL on Linux")
@settings(deadline=None, max_examples=15)
@given(SEEDS, st.sampled_from([1, 5]), st.sampled_from([20, 400]), st.booleans(), st.booleans(), st.booleans())
def test_equal_to_lvis_on_federated_sets(seed, classes, num_detections, coarse, gapped, borders):
    document, detections = random_set(
        seed, classes=classes, detections=num_detections, coarse=coarse, gapped=gapped, borders=borders
    )
    if not any(len(found.scores) for found in detections.values()):
        return  # lvis needs at least one detection
    dataset = federated(dataset_from_coco(document), seed)
    scores = score_detections(dataset, detections)
    metrics, of_class = by_lvis(dataset, detections)
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    np.testing.assert_allclose([scores.metrics[n] for n in names], [metrics[n] for n in names], rtol=0, atol=1e-12)
    np.testing.assert_allclose(list(scores.per_class.values()), of_class, rtol=0, atol=1e-12)
