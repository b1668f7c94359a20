"""Small datasets of images with any number of bands, in one file or in several."""

import json

import numpy as np
from PIL import Image

from tests.helpers.tiff_files import tiff_of

SIDE = 64


def write_bands(folder, *, bands, count=8, dtype="u1", high=255, seed=0):
    """Write TIFF images of noise, with one bright rectangle each, which only the last band shows.

    Returns: the source, for `data.train` or `data.val`.
    """
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    boxes = []
    for number in range(count):
        values = random.integers(0, high // 2, (SIDE, SIDE, bands)).astype(dtype)
        boxes.append(draw_box(values[..., -1], high, random))
        (folder / "images" / f"{number}.tif").write_bytes(tiff_of(values))
    return write_truth(folder, [f"{number}.tif" for number in range(count)], boxes)


def write_pairs(folder, *, count=8, seed=0):
    """Write RGB images in `rgb/` and 16-bit images in `thermal/`, which alone show the objects; return the source."""
    random = np.random.default_rng(seed)
    boxes = []
    for name in ("rgb", "thermal"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        colour = random.integers(0, 128, (SIDE, SIDE, 3), dtype=np.uint8)
        heat = random.integers(0, 2000, (SIDE, SIDE), dtype=np.uint16)
        boxes.append(draw_box(heat, 4000, random))
        Image.fromarray(colour).save(folder / "rgb" / f"{number}.png")
        Image.fromarray(heat).save(folder / "thermal" / f"{number}.tif")
    return write_truth(folder, [f"rgb/{number}.png" for number in range(count)], boxes, images=folder)


def draw_box(band, value, random):
    """Fill a random rectangle of a band (H, W), in place, and return its box."""
    x, y, width, height = (int(number) for number in random.integers([2, 2, 20, 20], [20, 20, 40, 40]))
    band[y : y + height, x : x + width] = value
    return [x, y, width, height]


def write_truth(folder, names, boxes, *, images=None):
    """Write COCO annotations with one box per image, and return the source."""
    document = {
        "images": [{"id": n, "file_name": name, "height": SIDE, "width": SIDE} for n, name in enumerate(names)],
        "annotations": [
            {"id": 1 + n, "image_id": n, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    (folder / "truth.json").write_text(json.dumps(document))
    return {"annotations": str(folder / "truth.json"), "images": str(images or folder / "images")}


def overrides_for(source, channels, *more):
    """Overrides of the quickstart config to train on a dataset with some number of channels, in seconds."""
    return [
        f"data.train={json.dumps(source)}",
        f"data.val={json.dumps(source)}",
        f"model.in_channels={channels}",
        f"model.mean={[64.0] * channels}",
        f"model.std={[50.0] * channels}",
        "data.workers=0",
        f"data.resize.shorter={SIDE}",
        f"data.resize.longer={SIDE}",
        "data.transforms=[{type: resize}, {type: flip}]",
        "model.channels=64",
        "model.head_convs=1",
        "train.batch_size=4",
        "train.epochs=null",
        "train.steps=4",
        "train.warmup_steps=1",
        "train.log_every=1",
        "train.save_every=2",
        "train.eval_every=4",
        "train.deterministic=true",
        "train.precision=fp32",
        "inference.precision=fp32",
        "device=cpu",
        *more,
    ]
