"""A small COCO dataset with one fault of every kind that `retinanet check` detects, and a dataset without faults."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 64
HOSTILE_CLASS = "<script>alert(1)</script>"
HOSTILE_FILE = "a\u202egnp.<b>.png"  # U+202E reverses the text that follows it, unless escaped
LARGE = [10, 8, 40, 40]  # a box that matches anchors


def pattern(seed: int) -> Image.Image:
    """A random coarse pattern: no two seeds have similar perceptual hashes."""
    cells = np.random.default_rng(seed).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


class CocoFolder:
    """Writes images and their annotations; `save` writes `NAME.json` next to the image folder `NAME`."""

    def __init__(self, folder: Path, name: str, categories: tuple[str, ...]):
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.file = folder / f"{name}.json"
        self._categories = [{"id": number, "name": text} for number, text in enumerate(categories, start=1)]
        self._images: list[dict] = []
        self._annotations: list[dict] = []

    def add(
        self, file_name: str, *boxes: list[float], category: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)
    ) -> Path:
        """List an image, and return the path to which it must be written. `size` is its size in the annotations."""
        number = len(self._images) + 1
        self._images.append({"id": number, "file_name": file_name, "width": size[0], "height": size[1]})
        for box in boxes:
            entry = {"id": len(self._annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
            self._annotations.append(entry)
        return self.folder / file_name

    def save(self) -> None:
        document = {"images": self._images, "annotations": self._annotations, "categories": self._categories}
        self.file.write_text(json.dumps(document))


def write_clean(folder: Path) -> list[str]:
    """Write a dataset without faults, and return the overrides that select it."""
    for name, seeds in (("train", range(6)), ("val", range(6, 9))):
        part = CocoFolder(folder, name, ("cat", "dog"))
        for seed in seeds:
            pattern(seed).save(part.add(f"{seed}.png", LARGE, category=1 + seed % 2))
        part.save()
    return overrides_of(folder)


def write_planted(folder: Path) -> list[str]:
    """Write a dataset with the faults in `PLANTED`, and return the overrides that select it."""
    train = CocoFolder(folder, "train", ("cat", "Cat", HOSTILE_CLASS))
    for seed in range(6):
        pattern(seed).save(train.add(f"{seed}.png", LARGE, category=1 + seed % 3))
    pattern(0).save(train.add(HOSTILE_FILE, LARGE), compress_level=0)  # similar_images: different bytes, same pixels
    (train.add("copy.png", LARGE)).write_bytes((train.folder / "1.png").read_bytes())  # duplicate_images
    pattern(20).save(train.add("damaged.jpg", LARGE), quality=95)
    damaged = train.folder / "damaged.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-200])  # unreadable_images
    pattern(21).save(train.add("other_size.png", LARGE, size=(WIDTH + 5, HEIGHT)))  # image_size_differs
    pattern(22).save(train.add("flat_box.png", LARGE, [5, 5, 0, 10]))  # a box without area
    pattern(23).save(train.add("tiny_box.png", LARGE, [50, 30, 1, 1]))  # no_anchor
    pattern(24).save(train.add("twice.png", LARGE))
    train.add("twice.png", [50, 10, 30, 30])  # file_name_twice
    rotated = Image.Exif()
    rotated[0x0112] = 3
    pattern(25).save(train.add("rotated.jpg", LARGE), exif=rotated)  # ambiguous_orientation
    pattern(26).save(train.add("moving.gif", LARGE), save_all=True, append_images=[pattern(27)])  # several_frames
    grey = np.asarray(pattern(28).convert("L")).astype(np.uint16) * 16
    Image.fromarray(grey).save(train.add("deep.png", LARGE))  # value_range
    train.add("missing.png", LARGE)  # missing_images
    train.save()

    val = CocoFolder(folder, "val", ("cat", "Cat"))  # lacks_categories
    for seed in (40, 41):
        pattern(seed).save(val.add(f"{seed}.png", LARGE))
    (val.add("leak.png", LARGE)).write_bytes((train.folder / "2.png").read_bytes())  # val_is_train
    pattern(3).resize((WIDTH // 2, HEIGHT // 2)).save(  # val_resembles_train
        val.add("near.png", [2, 2, 30, 25], size=(WIDTH // 2, HEIGHT // 2))
    )
    pattern(42).save(val.add("damaged.png", LARGE))
    damaged = val.folder / "damaged.png"
    damaged.write_bytes(damaged.read_bytes()[:-300])
    val.save()
    return overrides_of(folder)


# Severity and kind of every fault that `write_planted` plants.
PLANTED = [
    ("error", "missing_images"),
    ("error", "unreadable_images"),
    ("warning", "ambiguous_orientation"),
    ("warning", "box_without_area"),
    ("warning", "category_names_similar"),
    ("warning", "duplicate_images"),
    ("warning", "file_name_twice"),
    ("warning", "image_size_differs"),
    ("warning", "lacks_categories"),
    ("warning", "no_anchor"),
    ("warning", "unreadable_images"),
    ("warning", "val_is_train"),
    ("warning", "val_resembles_train"),
    ("note", "several_frames"),
    ("note", "similar_images"),
    ("note", "value_range"),
]


def overrides_of(folder: Path) -> list[str]:
    """Overrides that select both splits, with a small network and image size."""
    return [
        *(f"data.{part}.images={folder / part}" for part in ("train", "val")),
        *(f"data.{part}.annotations={folder / part}.json" for part in ("train", "val")),
        "data.resize.shorter=64",
        "data.resize.longer=96",
        "model.backbone.weights=none",
        "device=cpu",
    ]
