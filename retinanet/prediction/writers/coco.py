"""Write detections as a COCO document with images, categories and scored annotations."""

import json
from collections.abc import Iterable
from typing import IO, Any

from retinanet.prediction.results import ImageResult, Results


def write_coco(results: Results, file: IO[bytes]) -> None:
    """Write a COCO document; its list `annotations` also has the form of COCO results.

    It contains every image that could be read, with or without objects. `info.thresholds` gives the score threshold of
    each class, and `info.failed` the images that could not be read.
    """
    names = results.class_names
    info = {
        "description": "detections of retinanet predict",
        "thresholds": dict(zip(names, results.thresholds, strict=True)),
        "failed": [{"file_name": failure.name, "reason": failure.reason} for failure in results.failures()],
    }
    categories = [{"id": number, "name": name} for number, name in zip(results.category_ids, names, strict=True)]
    file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"images": ['.encode())
    _write_entries(file, map(_image, results))
    file.write(b'],\n"annotations": [')
    _write_entries(file, _annotations(results))
    file.write(b"]}\n")


def _image(image: ImageResult) -> dict[str, Any]:
    return {"id": image.image_id, "file_name": image.name, "height": image.height, "width": image.width}


def _annotations(results: Results) -> Iterable[dict[str, Any]]:
    number = 0
    for image in results:
        for (x1, y1, x2, y2), score, label in zip(image.boxes, image.scores, image.labels, strict=True):
            number += 1
            yield {
                "id": number,
                "image_id": image.image_id,
                "category_id": results.category_ids[label],
                "category_name": results.class_names[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": score,
            }


def _write_entries(file: IO[bytes], entries: Iterable[dict[str, Any]]) -> None:
    for number, entry in enumerate(entries):
        file.write((",\n" if number else "\n").encode() + json.dumps(entry).encode())
