"""Write images with detections drawn on them, and cut out the detected objects."""

import logging
import math
import re
from dataclasses import replace

from torch import Tensor
from torchvision.io import encode_jpeg, encode_png

from retinanet.formats.images.reduced import fitting_size, read_reduced
from retinanet.formats.images.windows import DecodedImage, Window, WindowSource
from retinanet.prediction.outputs import CROPS_FOLDER, ImageFormat, OutputFolder, Outputs
from retinanet.structures import Detections
from retinanet.visualization.draw import as_rgb, draw_detections

log = logging.getLogger(__name__)

JPEG_QUALITY = 90
MAX_SIDE = 4096  # pixels of the longer side of a drawn image or crop, if the image is read in windows
# Lines and letters are no larger than in an image whose side is this many times as long as a usual object.
OBJECTS_PER_SIDE = 10
# Not allowed in file names on Windows, or separators of folders.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def write_drawn(
    folder: OutputFolder, stem: str, image: Tensor | WindowSource, detections: Detections, outputs: Outputs
) -> None:
    """Write the image with its detections drawn on it; an image that is read in windows is reduced to `MAX_SIDE`.

    Args:
        image: (C, H, W) uint8; see `as_rgb` for other images than RGB.
    """
    source = DecodedImage(image) if isinstance(image, Tensor) else image
    height, width = source.size
    pixels = _read(source, Window(0, 0, width, height))
    new_height, new_width = pixels.shape[-2:]
    if (new_height, new_width) != (height, width):
        log.info("note: %s is drawn at %d x %d pixels", outputs.drawn_name(stem), new_width, new_height)
        x, y = new_width / width, new_height / height
        detections = replace(detections, boxes=detections.boxes * detections.boxes.new_tensor([x, y, x, y]))
    side = min(new_height, new_width, _usual_side(detections.boxes) * OBJECTS_PER_SIDE)
    drawn = draw_detections(pixels, detections, min_score=0, labels=outputs.labels, side=side)
    folder.write(outputs.drawn_name(stem), _encoded(drawn, outputs.image_format))


def write_crops(
    folder: OutputFolder, stem: str, image: Tensor | WindowSource, detections: Detections, outputs: Outputs
) -> list[str]:
    """Write each detected object as `crops/CLASS/STEM_NUMBER`, numbered by score, and return the names of the files.

    A box is extended to whole pixels. Boxes without a pixel in the image are skipped. Crops of an image that is read in
    windows are reduced to `MAX_SIDE`.

    Args:
        image: (C, H, W) uint8; see `as_rgb` for other images than RGB.
    """
    source = DecodedImage(image) if isinstance(image, Tensor) else image
    kind = outputs.image_format
    height, width = source.size
    names = []
    for number, (box, label) in enumerate(zip(detections.boxes.tolist(), detections.labels.tolist(), strict=True), 1):
        left, top = (max(0, math.floor(side)) for side in box[:2])
        right, bottom = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
        if left < right and top < bottom:
            name = f"{CROPS_FOLDER}/{folder_name(detections.class_name(label))}/{stem}_{number}.{kind}"
            pixels = _read(source, Window(left, top, right, bottom))
            folder.write(name, _encoded(as_rgb(pixels).contiguous(), kind))
            names.append(name)
    return names


def _read(source: WindowSource, window: Window) -> Tensor:
    """Read a window, (C, H, W) uint8, reduced if necessary unless the image is in memory anyway."""
    if isinstance(source, DecodedImage):
        return source.read(window)
    return read_reduced(source, fitting_size(window.size, MAX_SIDE), window)


def _usual_side(boxes: Tensor) -> float:
    """Median side of boxes (D, 4), in pixels; infinity if there are none."""
    if len(boxes) == 0:
        return math.inf
    return float((boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt().median())


def folder_name(class_name: str) -> str:
    """A class name as the name of a folder that every operating system allows."""
    name = _FORBIDDEN.sub("_", class_name).rstrip(". ") or "_"
    return f"{name}_" if _DEVICES.fullmatch(name) else name


def _encoded(image: Tensor, kind: ImageFormat) -> bytes:
    encoded = encode_jpeg(image, quality=JPEG_QUALITY) if kind == "jpg" else encode_png(image)
    return encoded.numpy().tobytes()
