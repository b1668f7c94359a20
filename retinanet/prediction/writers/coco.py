"""Write detections as a COCO document with images, categories and scored annotations."""

import json
from collections.abc import Iterable
from typing import IO, Any

from retinanet.prediction.results import ImageResult, Results, VideoInfo


def write_coco(results: Results, file: IO[bytes]) -> None:
    """Write a COCO document; its list `annotations` also has the form of COCO results.

    It contains every image that could be read, with or without objects. Each frame of a video is such an image, with
    `video_id` and `frame_id` as in COCO-VID, and its time in seconds. `info.thresholds` gives the score threshold of
    each class, and `info.failed` the images and videos that could not be read completely.
    """
    names = results.class_names
    info = {
        "description": "detections of retinanet predict",
        "thresholds": dict(zip(names, results.thresholds, strict=True)),
        "failed": [{"file_name": failure.name, "reason": failure.reason} for failure in results.failures()],
    }
    categories = [{"id": number, "name": name} for number, name in zip(results.category_ids, names, strict=True)]
    file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n'.encode())
    if results.has_videos:
        file.write(b'"videos": [')
        _write_entries(file, map(_video, results.videos()))
        file.write(b"],\n")
    file.write(b'"images": [')
    _write_entries(file, map(_image, results))
    file.write(b'],\n"annotations": [')
    _write_entries(file, _annotations(results))
    file.write(b"]}\n")


def _video(video: VideoInfo) -> dict[str, Any]:
    return {"id": video.video_id, "name": video.name, "height": video.height, "width": video.width}


def _image(image: ImageResult) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": image.image_id,
        "file_name": image.name,
        "height": image.height,
        "width": image.width,
    }
    if image.frame is not None:
        entry |= {"video_id": image.frame.video_id, "frame_id": image.frame.number, "time_s": image.frame.time}
    return entry


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
