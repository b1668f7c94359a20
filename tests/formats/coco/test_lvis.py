"""LVIS annotations: files, and which classes were verified in which images."""

import json

import pytest
from PIL import Image

from retinanet.config import DataSource, MergedClass
from retinanet.errors import InputError
from retinanet.formats.coco.stream import read_stream
from retinanet.formats.coco.tolerant import read_tolerantly
from retinanet.formats.dataset import concatenate
from retinanet.formats.federated import Federated
from retinanet.formats.read import read_dataset
from tests.helpers.coco_files import box, error_of

CATEGORIES = [{"id": 2, "name": "cat", "frequency": "f"}, {"id": 5, "name": "cow"}, {"id": 9, "name": "dog"}]
URL = "http://images.cocodataset.org/train2017/{}.png"


def lvis_image(number, absent=(), incomplete=(), **fields):
    verified = {"neg_category_ids": list(absent), "not_exhaustive_category_ids": list(incomplete)}
    return {"id": number, "coco_url": URL.format(number), "height": 10, "width": 20, **verified, **fields}


IMAGES = [lvis_image(1, [5, 9]), lvis_image(2, [], [2]), lvis_image(3, [2], [])]
DOCUMENT = {"images": IMAGES, "annotations": [box(1, 2, [0, 0, 5, 5], 2), box(2, 3, [1, 1, 5, 5], 9)],
            "categories": CATEGORIES}  # fmt: skip


@pytest.fixture
def source(tmp_path):
    """Return a function that writes a document and its images."""

    def write(content):
        (tmp_path / "train2017").mkdir(exist_ok=True)
        for number in range(1, 4):
            Image.new("RGB", (20, 10)).save(tmp_path / "train2017" / f"{number}.png")
        (tmp_path / "some.json").write_text(json.dumps(content))
        return DataSource(annotations=str(tmp_path / "some.json"), images=str(tmp_path), format="lvis")

    return write


def pairs(federated: Federated) -> tuple[list, list]:
    return federated.absent.tolist(), federated.incomplete.tolist()


def test_images_are_named_by_their_urls_and_have_verified_classes(source):
    data = read_dataset((source(DOCUMENT),))
    assert [path.rpartition("train2017/")[2] for path in data.paths] == ["1.png", "2.png", "3.png"]
    assert data.labels.tolist() == [0, 2]
    assert pairs(data.federated) == ([[0, 1], [0, 2], [2, 0]], [[1, 0]])


def test_both_readers_agree(source):
    some = source(DOCUMENT)
    fast, tolerant = read_stream(some, lvis=True), read_tolerantly(some, lvis=True)
    assert fast.file_names == tolerant.file_names == tuple(f"train2017/{number}.png" for number in (1, 2, 3))
    assert pairs(fast.federated) == pairs(tolerant.federated)
    assert read_stream(some) is None  # not a COCO file


def test_selected_and_merged_classes(source):
    pet = MergedClass(name="pet", merge=("cat", "dog"))
    data = read_dataset((source(DOCUMENT),), classes=("cow", pet))
    # In image 0, the dog is absent and the cat was not checked; in image 2, there is a dog but no cat.
    assert pairs(data.federated) == ([[0, 0]], [[1, 1]])
    both = read_dataset((source({**DOCUMENT, "images": [lvis_image(1, [2, 9]), *IMAGES[1:]]}),), classes=(pet,))
    assert pairs(both.federated) == ([[0, 0]], [[1, 0]])


def test_subset_and_concatenation_keep_the_pairs_of_their_images(source):
    data = read_dataset((source(DOCUMENT),))
    part = data.subset([2, 1])
    assert pairs(part.federated) == ([[0, 0]], [[1, 0]])
    assert pairs(concatenate([part, data]).federated) == ([[0, 0], [2, 1], [2, 2], [4, 0]], [[1, 0], [3, 0]])
    assert len(data.first(0).federated.absent) == 0


def test_sources_cannot_be_mixed_with_complete_annotations(source, tmp_path):
    images = [{"id": 1, "file_name": "train2017/1.png", "height": 10, "width": 20}]
    coco = source({"images": images, "annotations": [], "categories": CATEGORIES}).model_copy(update={"format": "coco"})
    (tmp_path / "some.json").rename(tmp_path / "coco.json")
    coco = coco.model_copy(update={"annotations": str(tmp_path / "coco.json")})
    with pytest.raises(InputError, match="LVIS annotations cannot be mixed with complete ones"):
        read_dataset((source(DOCUMENT), coco))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (lvis_image(1, [4]), "1 image(s) with an invalid neg_category_ids, expected a list of category ids"),
        (lvis_image(1, coco_url=None), "1 image(s) with an invalid file_name, expected the name of a file"),
        (lvis_image(1, neg_category_ids=None), "1 image(s) with an invalid neg_category_ids"),
    ],
)
def test_invalid_images_are_rejected(source, image, message):
    assert error_of(source({**DOCUMENT, "images": [image, *IMAGES[1:]]})).startswith(f"some.json: {message}")


def test_merged_class_is_incomplete_if_one_of_its_categories_was_not_checked(source):
    pet = MergedClass(name="pet", merge=("cat", "dog"))
    # Images 0 and 1 have a cat; dogs were not checked in image 0 and are absent in image 1. Image 2 is as in DOCUMENT.
    images = [lvis_image(1), lvis_image(2, [9]), IMAGES[2]]
    cats = [box(number, number, [0, 0, 5, 5], 2) for number in (1, 2)]
    content = {"images": images, "annotations": [*cats, box(3, 3, [1, 1, 5, 5], 9)], "categories": CATEGORIES}
    data = read_dataset((source(content),), classes=(pet, "cow"))
    assert pairs(data.federated) == ([], [[0, 0]])
    assert [data.image(index).is_complete.tolist() for index in range(3)] == [[False, False], *[[True, False]] * 2]


def test_dropped_box_verifies_nothing(source):
    """Class 2 has only an empty box in image 1, so the position of its object is unknown."""
    content = DOCUMENT | {"images": [lvis_image(2)], "annotations": [box(1, 2, [3, 3, 0, 0], 2)]}
    data = read_dataset((source(content),))
    assert len(data.labels) == 0 and not data.image(0).is_complete.any()
