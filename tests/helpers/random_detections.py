"""Random objects and detections with the cases that are hard to score: crowds, ties, and areas at the size limits."""

from dataclasses import replace

import numpy as np

from retinanet.formats.dataset import Dataset
from retinanet.formats.federated import Federated, pairs_of
from retinanet.structures import Detections
from tests.helpers.coco_scores import found

FAMILIES = {  # arguments of `random_set`
    "plain": {},
    "crowds": {"crowds": 0.4},
    "ties": {"coarse": True},
    "crowds and ties": {"crowds": 0.4, "coarse": True},
    "at most 100 detections of a class count": {"detections": 250, "classes": 1, "coarse": True},
    "few objects": {"objects": 1},
    "no objects": {"objects": 0},
    "no detections": {"detections": 0},
    "gapped ids": {"gapped": True, "crowds": 0.2},
    "gapped ids and ties": {"gapped": True, "coarse": True},
    "texts as ids and ties": {"texts": True, "coarse": True},
    "areas at the borders of the sizes": {"borders": True},
    "boxes without area": {"degenerate": True, "crowds": 0.2},
}
BORDER_STEP = 2**-17  # exact in float32 for coordinates up to 128


def random_set(
    seed: int,
    *,
    objects: int = 8,
    detections: int = 20,
    classes: int = 4,
    crowds: float = 0.0,
    coarse: bool = False,
    gapped: bool = False,
    texts: bool = False,
    huge: bool = False,
    borders: bool = False,
    degenerate: bool = False,
) -> tuple[dict, dict[int, Detections]]:
    """Six images in COCO format, some without objects or detections, and the detections by image index.

    Args:
        objects, detections: maximum per image.
        crowds: probability that an object is a crowd.
        coarse: few distinct boxes and scores, so that overlaps and scores tie.
        gapped: ids neither sorted nor consecutive.
        texts: image ids are texts, whose order is not that of their numbers.
        huge: image ids exceed 64 bits.
        borders: areas at and next to the limits of small, medium and large.
        degenerate: some objects have a side that is zero or negative.
    """
    random = np.random.default_rng(seed)
    image_ids = (random.permutation(10_000)[:6] if gapped else np.arange(1, 7)).tolist()
    image_ids = [f"image {number}" for number in (8, 9, 10, 11, 1, 2)] if texts else image_ids
    image_ids = [2**80 - number for number in image_ids] if huge else image_ids
    category_ids = (random.permutation(2000)[:classes] if gapped else np.arange(1, classes + 1)).tolist()

    def box() -> list[float]:
        if coarse:
            return [*random.integers(0, 4, 2).astype(float) * 20, *random.integers(1, 4, 2).astype(float) * 30]
        if borders:
            side = random.choice([32.0, 96.0])
            return [
                *random.integers(0, 20, 2).astype(float),
                side,
                side + random.choice([-BORDER_STEP, 0.0, BORDER_STEP]),
            ]
        return [*random.uniform(0, 100, 2).tolist(), *np.exp(random.uniform(1, 5, 2)).tolist()]

    annotations, all_detections = [], {}
    for index, image_id in enumerate(image_ids):
        boxes = [box() for _ in range(random.integers(0, objects + 1))]
        for x, y, width, height in boxes:
            if degenerate and random.random() < 0.3:
                width *= random.choice([0.0, -1.0])
            area = width * height * (1.0 if coarse or borders else random.uniform(0.3, 1.0))  # like that of a mask
            annotation = {"image_id": image_id, "category_id": int(random.choice(category_ids))}
            annotation |= {"bbox": [x, y, width, height], "area": area, "iscrowd": int(random.random() < crowds)}
            annotations.append(annotation)
        detected, scores, labels = [], [], []
        for _ in range(random.integers(0, detections + 1)):
            entry = box()
            if boxes and random.random() < 0.6:
                entry = boxes[random.integers(len(boxes))]
                if not coarse and not borders:
                    entry = (np.array(entry) * random.uniform(0.8, 1.2, 4)).tolist()
            detected.append(entry)
            scores.append(random.integers(1, 5) / 4 if coarse else random.random())
            labels.append(int(random.integers(classes)))
        all_detections[index] = found(*detected, scores=scores, labels=labels)
    numbers = random.permutation(len(annotations)) * 7 + 3 if gapped else np.arange(1, len(annotations) + 1)
    for annotation, number in zip(annotations, numbers.tolist(), strict=True):
        annotation["id"] = number
    images = [{"id": image_id, "height": 300, "width": 300} for image_id in image_ids]
    categories = [{"id": category_id, "name": f"class {category_id}"} for category_id in category_ids]
    return {"images": images, "annotations": annotations, "categories": categories}, all_detections


def federated(dataset: Dataset, seed: int) -> Dataset:
    """The dataset with random pairs of images and labels that are absent or incomplete."""
    random = np.random.default_rng(seed)
    labels = range(len(dataset.class_names))
    pairs = [pairs_of([[label for label in labels if random.random() < 0.3] for _ in dataset.paths]) for _ in range(2)]
    return replace(dataset, federated=Federated(*pairs))
