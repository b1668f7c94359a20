import json
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from retinanet.data.synthetic import shapes
from retinanet.data.synthetic.__main__ import main
from retinanet.data.synthetic.scene import draw_image, iou
from retinanet.data.synthetic.shapes import write_shapes
from retinanet.data.synthetic.sprites import CLASSES
from retinanet.errors import InputError

NUM_IMAGES = {"train": 60, "val": 16}


def write(folder, *, num_train=2, num_val=2, seed=0):
    write_shapes(folder, num_train=num_train, num_val=num_val, seed=seed, progress=False)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def corners(annotation):
    x, y, width, height = annotation["bbox"]
    return x, y, x + width, y + height


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    parent = tmp_path_factory.mktemp("shapes")
    return write(parent / "set", num_train=NUM_IMAGES["train"], num_val=NUM_IMAGES["val"])


@pytest.fixture(scope="module")
def documents(folder):
    return {split: json.loads((folder / f"{split}.json").read_text()) for split in NUM_IMAGES}


@pytest.fixture(scope="module")
def objects_per_image(documents):
    """For every image of both splits, its ordinary annotations and its crowds."""
    per_image = []
    for document in documents.values():
        by_id = {image["id"]: ([], []) for image in document["images"]}
        for annotation in document["annotations"]:
            by_id[annotation["image_id"]][annotation["iscrowd"]].append(annotation)
        per_image += by_id.values()
    return per_image


def test_same_seed_gives_same_files_and_another_seed_does_not(tmp_path):
    first, again, other = (contents(write(tmp_path / name, seed=seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert first == again
    assert first.keys() == other.keys()
    assert [name for name in first if first[name] == other[name]] == []


def test_smaller_dataset_is_a_prefix_of_a_larger_one(folder, documents, tmp_path):
    small = write(tmp_path / "small", num_train=3, num_val=2)
    for split, num_images in (("train", 3), ("val", 2)):
        for path in sorted((small / split).iterdir()):
            assert path.read_bytes() == (folder / split / path.name).read_bytes()
        document = json.loads((small / f"{split}.json").read_text())
        assert len(document["images"]) == num_images
        assert document["images"] == documents[split]["images"][:num_images]
        assert document["annotations"] == documents[split]["annotations"][: len(document["annotations"])]


def test_all_images_of_both_splits_differ(folder):
    images = [path.read_bytes() for path in folder.rglob("*.png")]
    assert len(set(images)) == len(images) == sum(NUM_IMAGES.values())


@pytest.mark.parametrize("split", NUM_IMAGES)
def test_pycocotools_reads_the_annotations_and_files_match(folder, split):
    coco = COCO(folder / f"{split}.json")
    assert len(coco.getImgIds()) == NUM_IMAGES[split]
    category_ids = coco.getCatIds()
    assert [category["name"] for category in coco.loadCats(category_ids)] == list(CLASSES)
    assert category_ids != list(range(1, len(CLASSES) + 1)), "consecutive ids would hide confusion with labels"
    for image in coco.loadImgs(coco.getImgIds()):
        with Image.open(folder / split / image["file_name"]) as file:
            assert (file.mode, file.size) == ("RGB", (image["width"], image["height"]))
            assert file.size in {(256, 256), (256, 320), (320, 256)}
    assert sorted(path.name for path in (folder / split).iterdir()) == sorted(
        i["file_name"] for i in coco.imgs.values()
    )


def test_annotations_are_valid(documents):
    for document in documents.values():
        ids = [annotation["id"] for annotation in document["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        images = {image["id"]: image for image in document["images"]}
        assert len(images) == len(document["images"])
        for annotation in document["annotations"]:
            image = images[annotation["image_id"]]
            x1, y1, x2, y2 = corners(annotation)
            assert 0 <= x1 < x2 <= image["width"] and 0 <= y1 < y2 <= image["height"], annotation
            assert 0 < annotation["area"] <= (x2 - x1) * (y2 - y1), annotation


def test_objects_vary_in_class_size_overlap_and_number(objects_per_image):
    objects = [annotation for ordinary, _ in objects_per_image for annotation in ordinary]
    assert {annotation["category_id"] for annotation in objects} == set(shapes.CATEGORY_IDS)
    sizes = np.array([max(annotation["bbox"][2:]) for annotation in objects])
    assert sizes.min() >= 10 and sizes.max() <= 200
    # The fraction below s is (ln(s / 10) / ln 20)^2, with a margin for chance, clipped and skipped objects.
    for low, expected in ((10, 0.05), (20, 0.16), (40, 0.27), (80, 0.38)):
        assert abs(np.mean((sizes >= low) & (sizes < 2 * low)) - expected) < 0.1
    assert sizes.max() > 160

    overlapped = 0
    for ordinary, _ in objects_per_image:
        pairs = [pair for pair in combinations(ordinary, 2) if iou(corners(pair[0]), corners(pair[1])) > 0.05]
        overlapped += len({annotation["id"] for pair in pairs for annotation in pair})
    assert overlapped / len(objects) >= 0.2

    counts = [len(ordinary) for ordinary, _ in objects_per_image]
    assert max(counts) <= 9 and len(set(counts)) > 6
    assert 0.02 <= np.mean([not ordinary and not crowds for ordinary, crowds in objects_per_image]) <= 0.12


def test_crowds_hardly_overlap_objects(objects_per_image):
    assert 0.1 <= np.mean([len(crowds) == 1 for _, crowds in objects_per_image]) <= 0.32
    assert max(len(crowds) for _, crowds in objects_per_image) == 1
    for ordinary, crowds in objects_per_image:
        for crowd in crowds:
            left, top, right, bottom = corners(crowd)
            for annotation in ordinary:
                x1, y1, x2, y2 = corners(annotation)
                shared = max(0, min(x2, right) - max(x1, left)) * max(0, min(y2, bottom) - max(y1, top))
                assert shared <= 0.1 * (x2 - x1) * (y2 - y1)


def test_existing_dataset_is_kept(tmp_path, capsys):
    folder = write(tmp_path / "set")
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    assert not write_shapes(folder, num_train=2, num_val=2, progress=False)
    capsys.readouterr()
    assert main([str(folder), "--train", "2", "--val", "2"]) == 0
    assert "already contains" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before


def test_folder_with_other_content_is_an_error_and_unchanged(tmp_path):
    foreign, other_seed, damaged = tmp_path / "foreign", tmp_path / "other", tmp_path / "damaged"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("irreplaceable")
    write(other_seed, seed=1)
    write(damaged)
    (damaged / "val" / "000002.png").unlink()
    plain_file = tmp_path / "file"
    plain_file.write_text("irreplaceable")
    before = contents(tmp_path)
    for folder, found in ((foreign, "shapes.json"), (other_seed, "'seed': 1"), (damaged, "1 images in val/"),
                          (plain_file, "not a shapes dataset")):  # fmt: skip
        with pytest.raises(InputError, match=found):
            write(folder)
    assert contents(tmp_path) == before


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    assert len(contents(write(tmp_path / "set"))) == 2 + 2 + 3


def test_interrupted_write_leaves_no_files(tmp_path, monkeypatch):
    def draw_until_interrupted(seed, split, index):
        if (split, index) == ("val", 1):
            assert [path.name for path in tmp_path.iterdir()] != ["set"], "drawn directly in the final folder"
            raise KeyboardInterrupt
        return draw_image(seed, split, index)

    monkeypatch.setattr(shapes, "draw_image", draw_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_concurrent_writers_agree(tmp_path, monkeypatch):
    """Another process writes the same dataset while this one is drawing."""
    folder, real_replace = tmp_path / "set", shapes.os.replace

    def replace_second(source, target):
        monkeypatch.setattr(shapes.os, "replace", real_replace)
        write(folder)
        real_replace(source, target)

    monkeypatch.setattr(shapes.os, "replace", replace_second)
    write(folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert len(contents(folder)) == 2 + 2 + 3


@pytest.mark.parametrize("wrong", [{"num_train": 0}, {"num_val": -1}, {"seed": -1}])
def test_invalid_numbers_are_an_error(tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        write(tmp_path / "set", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_python_m_draws_the_dataset(tmp_path):
    command = [sys.executable, "-m", "retinanet.data.synthetic", tmp_path / "set", "--train", "1", "--val", "1"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert contents(tmp_path / "set") == contents(write(tmp_path / "expected", num_train=1, num_val=1))


def test_command_line(tmp_path, capsys):
    folder = tmp_path / "new" / "set"
    arguments = [str(folder), "--train", "2", "--val", "1"]
    assert main(arguments) == 0
    assert {path.name for path in folder.iterdir()} == {"train", "val", "train.json", "val.json", "shapes.json"}
    capsys.readouterr()
    assert main([*arguments, "--seed", "9"]) == 2
    message = capsys.readouterr().err
    assert "another shapes dataset" in message and "Traceback" not in message
