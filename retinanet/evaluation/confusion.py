"""Confusion matrix: which classes the detector confuses."""

import numpy as np
from hotcoco import COCOeval

from retinanet.evaluation.detection_table import ranks
from retinanet.formats.dataset import Dataset


def confusion_matrix(evaluation: COCOeval, dataset: Dataset, *, min_iou: float = 0.5) -> np.ndarray:
    """Count pairs of an object's class and the class of the detection that covers it, as computed by hotcoco.

    In each image, detections of any class take the objects they overlap most, in order of score. A crowd region is not
    an object here.

    Args:
        evaluation: evaluation of the detections, whatever their score; see `coco_evaluation`.
        min_iou: smallest IoU of a pair.

    Returns:
        (K + 1, K + 1) int64. Row k counts objects of class k, column k detections of class k. The last column counts
        missed objects, the last row detections of background.
    """
    matrix = evaluation.confusion_matrix(iou_thr=min_iou)["matrix"]
    order = np.append(ranks(dataset.category_ids) - 1, len(dataset.class_names))
    return matrix[order][:, order].astype(np.int64)
