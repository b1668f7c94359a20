"""Write a dataset as a COCO annotation file."""

import json
from pathlib import Path

from retinanet.formats.dataset import Dataset
from retinanet.formats.writing import Losses, image_names, write_new_files


def write_coco(dataset: Dataset, folder: Path, *, split: str) -> Losses:
    """Write `annotations/instances_SPLIT.json`; images belong in the folder SPLIT.

    Annotations are numbered from 1. The format can express everything in a dataset.

    Raises:
        InputError: the file exists or cannot be written.
    """
    images = [
        {"id": image_id, "file_name": name, "height": height, "width": width}
        for image_id, name, (height, width) in zip(
            dataset.image_ids, image_names(dataset), dataset.sizes.tolist(), strict=True
        )
    ]
    annotations = []
    for index, image_id in enumerate(dataset.image_ids):
        for row in range(dataset.box_start[index], dataset.box_start[index + 1]):
            annotations.append(
                {
                    "id": row + 1,
                    "image_id": image_id,
                    "category_id": dataset.category_ids[dataset.labels[row]],
                    "bbox": dataset.boxes_xywh[row].tolist(),
                    "area": float(dataset.areas[row]),
                    "iscrowd": int(dataset.is_crowd[row]),
                }
            )
    categories = [
        {"id": number, "name": name} for number, name in zip(dataset.category_ids, dataset.class_names, strict=True)
    ]
    document = {"images": images, "annotations": annotations, "categories": categories}
    write_new_files({folder / "annotations" / f"instances_{split}.json": json.dumps(document)})
    return {}
