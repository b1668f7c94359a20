"""Write images with detections drawn on them, and cut out the detected objects."""

import math
import re

from torch import Tensor
from torchvision.io import encode_jpeg, encode_png

from retinanet.prediction.outputs import CROPS_FOLDER, ImageFormat, OutputFolder, Outputs
from retinanet.structures import Detections
from retinanet.visualization.draw import as_rgb, draw_detections

JPEG_QUALITY = 90
# Not allowed in file names on Windows, or separators of folders.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def write_drawn(folder: OutputFolder, stem: str, image: Tensor, detections: Detections, outputs: Outputs) -> None:
    """Write the image with its detections drawn on it.

    Args:
        image: (C, H, W) uint8; see `as_rgb` for other images than RGB.
    """
    drawn = draw_detections(image, detections, min_score=0, labels=outputs.labels)
    folder.write(outputs.drawn_name(stem), _encoded(drawn, outputs.image_format))


def write_crops(folder: OutputFolder, stem: str, image: Tensor, detections: Detections, outputs: Outputs) -> list[str]:
    """Write each detected object as `crops/CLASS/STEM_NUMBER`, numbered by score, and return the names of the files.

    A box is extended to whole pixels. Boxes without a pixel in the image are skipped.

    Args:
        image: (C, H, W) uint8; see `as_rgb` for other images than RGB.
    """
    kind = outputs.image_format
    height, width = image.shape[-2:]
    names = []
    for number, (box, label) in enumerate(zip(detections.boxes.tolist(), detections.labels.tolist(), strict=True), 1):
        left, top = (max(0, math.floor(side)) for side in box[:2])
        right, bottom = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
        if left < right and top < bottom:
            name = f"{CROPS_FOLDER}/{folder_name(detections.class_name(label))}/{stem}_{number}.{kind}"
            folder.write(name, _encoded(as_rgb(image[:, top:bottom, left:right]).contiguous(), kind))
            names.append(name)
    return names


def folder_name(class_name: str) -> str:
    """A class name as the name of a folder that every operating system allows."""
    name = _FORBIDDEN.sub("_", class_name).rstrip(". ") or "_"
    return f"{name}_" if _DEVICES.fullmatch(name) else name


def _encoded(image: Tensor, kind: ImageFormat) -> bytes:
    encoded = encode_jpeg(image, quality=JPEG_QUALITY) if kind == "jpg" else encode_png(image)
    return encoded.numpy().tobytes()
