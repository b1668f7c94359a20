"""A tiny dataset with LVIS annotations."""

import json
from pathlib import Path

from tests.helpers.tiny_runs import write_tiny_dataset

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}]  # no cows
ABSENT = {1: [1], 2: [1, 2], 5: [1], 6: [2]}  # categories by image
INCOMPLETE = {3: [2]}
OBJECTS = {1: [2], 3: [2, 2], 4: [1], 5: [2], 6: [1]}  # from `write_tiny_dataset`
# Cat, dog and cow by image: True if absent, or completely annotated. Cows are never annotated.
IS_COMPLETE = {
    1: [True, True, False],
    2: [True, True, False],
    3: [False, False, False],
    4: [True, False, False],
    5: [True, True, False],
    6: [True, True, False],
}


def write_tiny_lvis(folder: Path, *, federated: bool = True) -> dict[str, str]:
    """Write the images of `write_tiny_dataset`, and return their source in a config.

    Args:
        federated: write LVIS annotations; otherwise the same boxes and categories in COCO's format.
    """
    folder.mkdir()
    source = write_tiny_dataset(folder / "train2017")
    truth = json.loads(Path(source["annotations"]).read_text())
    truth["annotations"] = [entry for entry in truth["annotations"] if not entry.pop("iscrowd", 0)]
    found: dict[int, list[int]] = {}
    for entry in truth["annotations"]:
        found.setdefault(entry["image_id"], []).append(entry["category_id"])
    assert found == OBJECTS
    truth["categories"] = CATEGORIES
    if federated:
        for image in truth["images"]:
            image["coco_url"] = f"http://images.example.org/train2017/{image.pop('file_name')}"
            image["neg_category_ids"] = ABSENT.get(image["id"], [])
            image["not_exhaustive_category_ids"] = INCOMPLETE.get(image["id"], [])
        source = {"images": str(folder), "annotations": str(folder / "lvis.json")}
    Path(source["annotations"]).write_text(json.dumps(truth))
    return source
