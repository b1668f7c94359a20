"""Output files, compared with hand-written content and read back by this package and by others."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO

from retinanet.evaluation.results_file import read_results
from retinanet.formats.images.reader import read_image
from retinanet.prediction.journal import Journal
from retinanet.prediction.outputs import OutputFolder, Outputs
from retinanet.prediction.plan import InputFile
from retinanet.prediction.results import Results
from retinanet.prediction.writers.coco import write_coco
from retinanet.prediction.writers.images import folder_name, write_crops, write_drawn
from retinanet.prediction.writers.tables import write_counts, write_detections
from retinanet.prediction.writers.yolo import write_yolo
from retinanet.structures import Detections
from retinanet.visualization.draw import draw_detections
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.image_files import read

NAMES, IDS = ("cat", 'a "b", c'), (3, 7)


@pytest.fixture
def results(tmp_path):
    """Two objects in one image, none in the second; the third cannot be read, and the fourth has not been processed."""
    images = [InputFile(Path(name), f"/{name}", name, name[:-4]) for name in ("a/x.png", "y.png", "z.png", "w.png")]
    journal = Journal(tmp_path)
    journal.start({}, [])
    common = {"stamp": None, "size": [50, 100]}
    objects = {"boxes": [[10.0, 5.0, 30.0, 25.0], [0.0, 0.0, 100.0, 50.0]], "scores": [0.75, 0.5], "labels": [1, 0]}
    journal.append(
        [
            {"path": "/y.png", "name": "y.png", **common, "boxes": [], "scores": [], "labels": []},
            {"path": "/a/x.png", "name": "a/x.png", **common, **objects},
            {"path": "/z.png", "name": "z.png", **common, "error": "z.png: damaged"},
        ]
    )
    yield Results(journal, images, class_names=NAMES, category_ids=IDS, thresholds=(0.25, 0.5))
    journal.close()


def written(write, results) -> bytes:
    file = io.BytesIO()
    write(results, file)
    return file.getvalue()


def test_coco_document(results, tmp_path):
    file = tmp_path / "detections.json"
    file.write_bytes(written(write_coco, results))
    document = json.loads(file.read_text())
    assert document["info"] == {
        "description": "detections of retinanet predict",
        "thresholds": {"cat": 0.25, 'a "b", c': 0.5},
        "failed": [{"file_name": "z.png", "reason": "z.png: damaged"}],
    }
    assert document["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": 'a "b", c'}]
    assert document["images"] == [
        {"id": 1, "file_name": "a/x.png", "height": 50, "width": 100},
        {"id": 2, "file_name": "y.png", "height": 50, "width": 100},
    ]
    first, second = document["annotations"]
    assert first == {
        "id": 1,
        "image_id": 1,
        "category_id": 7,
        "category_name": 'a "b", c',
        "bbox": [10.0, 5.0, 20.0, 20.0],
        "area": 400.0,
        "iscrowd": 0,
        "score": 0.75,
    }
    assert (second["id"], second["category_id"], second["bbox"]) == (2, 3, [0.0, 0.0, 100.0, 50.0])
    coco = COCO(str(file))
    loaded = coco.loadRes(document["annotations"])
    assert len(loaded.getAnnIds()) == 2 and coco.getImgIds() == [1, 2]


def test_coco_document_is_read_by_eval(results, tmp_path):
    file = tmp_path / "detections.json"
    file.write_bytes(written(write_coco, results))
    data = dataset_of([image_record("images/x.png", image_id=99)], class_names=NAMES, category_ids=IDS)
    found = read_results(file, data)[0]
    assert found.boxes.tolist() == [[10, 5, 30, 25], [0, 0, 100, 50]] and found.labels.tolist() == [1, 0]


def test_detections_table(results, tmp_path):
    content = written(write_detections, results)
    assert list(csv.reader(io.StringIO(content.decode()))) == [
        ["image_path", "xmin", "ymin", "xmax", "ymax", "label", "score", "threshold"],
        ["a/x.png", "10.0", "5.0", "30.0", "25.0", 'a "b", c', "0.75", "0.5"],
        ["a/x.png", "0.0", "0.0", "100.0", "50.0", "cat", "0.5", "0.25"],
    ]


def test_counts_table(results):
    assert list(csv.reader(io.StringIO(written(write_counts, results).decode()))) == [
        ["image_path", *NAMES, "all classes"],
        ["a/x.png", "1", "1", "2"],
        ["y.png", "0", "0", "0"],
        ["all images", "1", "1", "2"],
        ["score threshold", "0.25", "0.5", ""],
    ]


def test_yolo_labels(results, tmp_path):
    write_yolo(results, OutputFolder(tmp_path))
    # (10 + 30) / 2 / 100, (5 + 25) / 2 / 50, 20 / 100, 20 / 50
    lines = ["1 0.2 0.3 0.2 0.4 0.75", "0 0.5 0.5 1 1 0.5"]
    assert (tmp_path / "labels" / "a" / "x.txt").read_text().splitlines() == lines
    assert (tmp_path / "labels" / "y.txt").read_text() == ""
    assert not (tmp_path / "labels" / "z.txt").exists()
    assert (tmp_path / "classes.txt").read_text().splitlines() == list(NAMES)


@pytest.fixture
def image():
    return torch.arange(3 * 20 * 30).reshape(3, 20, 30).remainder(256).to(torch.uint8)


def test_crops_are_the_pixels_of_the_boxes(image, tmp_path):
    # The box from 4.6 to 9.2 covers the columns 4 to 9; the third box has no pixel in the image.
    boxes = torch.tensor([[4.6, 2.0, 9.2, 5.0], [-5.0, 15.0, 40.0, 25.0], [30.0, 0.0, 31.0, 9.0]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]), ("cat", "a/b"))
    names = write_crops(OutputFolder(tmp_path), "sub/x", image, found, Outputs(crops=True))
    assert names == ["crops/cat/sub/x_1.png", "crops/a_b/sub/x_2.png"]
    assert torch.equal(torch.from_numpy(read(tmp_path / names[0])).permute(2, 0, 1), image[:, 2:5, 4:10])
    assert torch.equal(torch.from_numpy(read(tmp_path / names[1])).permute(2, 0, 1), image[:, 15:20])


def test_drawn_images_as_png_and_jpeg(image, tmp_path):
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), NAMES)
    for kind, start in (("png", b"\x89PNG"), ("jpg", b"\xff\xd8\xff")):
        write_drawn(OutputFolder(tmp_path), "x", image, nothing, Outputs(image_format=kind))
        assert (tmp_path / f"x.{kind}").read_bytes().startswith(start)
    assert torch.equal(torch.from_numpy(read(tmp_path / "x.png")).permute(2, 0, 1), image)


def test_small_objects_are_drawn_with_small_letters(tmp_path):
    image = torch.full((3, 600, 800), 255, dtype=torch.uint8)
    for side, expected in ((300, 600), (30, 300)):  # as for the size of the image, and as if it had room for 10 objects
        boxes = torch.tensor([[100.0, 100, 100 + side, 100 + side]])
        found = Detections(boxes, torch.tensor([0.5]), torch.tensor([0]), ("cell",))
        write_drawn(OutputFolder(tmp_path), f"{side}", image, found, Outputs())
        drawn = read_image(tmp_path / f"{side}.png", max_pixels=image[0].numel())
        assert drawn.equal(draw_detections(image, found, side=expected))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cat", "cat"),
        ("Größe 方块", "Größe 方块"),
        ("../a:b?", ".._a_b_"),
        ("..", "_"),
        ("dot. ", "dot"),
        ("CON", "CON_"),
        ("nul.x", "nul.x_"),
        ("console", "console"),
    ],
)
def test_class_names_as_folders(name, folder):
    assert folder_name(name) == folder
