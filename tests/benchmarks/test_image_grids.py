"""Grids of images: the objects land exactly where their pixels are."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from retinanet.benchmarks.image_grids import arrange, compose_grids, draw_grid, main
from retinanet.config import DataSource
from retinanet.data.reader import SampleReader
from retinanet.data.transforms.sample import FILL
from retinanet.errors import InputError
from retinanet.formats.coco.writer import write_coco
from retinanet.formats.dataset import Dataset
from retinanet.formats.images.settings import ImageSettings
from retinanet.formats.read import read_dataset
from tests.helpers.blood_cells import blood_cells, needs_blood_cells
from tests.helpers.datasets import dataset_of, image_record

SETTINGS = ImageSettings(max_pixels=1_000_000)
SIZES = [(30, 50), (48, 40), (50, 30), (20, 60), (33, 47)]  # height and width


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """Five images of noise with two objects each, the second of them a crowd region."""
    random = np.random.default_rng(0)
    records = []
    for number, (height, width) in enumerate(SIZES, start=1):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        boxes = [(number, 2, 10 + number, 15), (3, 4, 20, 18)]
        records.append(
            image_record(path, height, width, boxes, labels=[0, 1], is_crowd=[False, True], image_id=10 * number)
        )
    dataset = dataset_of(records, class_names=("cell", "blob"), category_ids=(3, 7))
    return replace(dataset, areas=dataset.areas / 2)  # as if computed from masks


def pixels_of(image, box_xywh) -> np.ndarray:
    left, top, width, height = (round(value) for value in box_xywh)
    return np.asarray(image)[top : top + height, left : left + width]


def test_rows_and_columns_are_as_large_as_their_largest_image():
    layout = arrange(np.array(SIZES[:4]), grid=2, cell=None)
    # Rows: max(30, 48) and max(50, 20); columns: max(50, 30) and max(40, 60).
    assert layout.size == (48 + 50, 50 + 60)
    assert layout.corners.tolist() == [[0, 0], [50, 0], [0, 48], [50, 48]]
    assert layout.sizes.tolist() == [list(size) for size in SIZES[:4]]


def test_images_are_scaled_to_fit_their_cell():
    layout = arrange(np.array([(30, 60), (60, 30), (20, 10), (15, 15)]), grid=2, cell=(15, 30))
    assert layout.size == (30, 60)
    assert layout.corners.tolist() == [[0, 0], [30, 0], [0, 15], [30, 15]]
    # Factors 1/2, 1/4, 3/4 and 1; 10 * 3/4 = 7.5 and 30 * 1/4 = 7.5 are rounded to even.
    assert layout.sizes.tolist() == [[15, 30], [15, 8], [15, 8], [15, 15]]


def test_pixels_inside_every_moved_box_are_those_of_the_original(dataset, tmp_path):
    composed = compose_grids(dataset, tmp_path / "grids", grid=2, seed=3)
    order = np.random.default_rng(3).permutation(5)[:4]
    layout = arrange(dataset.sizes[order], grid=2, cell=None)
    drawn = draw_grid(SampleReader(dataset.subset(order.tolist()), [], seed=0, settings=SETTINGS), 0, layout)
    originals = [(index, row) for index in order.tolist() for row in range(*dataset.box_start[index : index + 2])]
    assert len(originals) == len(composed.labels) == 8
    for (index, row), moved in zip(originals, composed.boxes_xywh, strict=True):
        with Image.open(dataset.paths[index]) as original:
            assert np.array_equal(pixels_of(drawn, moved), pixels_of(original, dataset.boxes_xywh[row]))


def test_gaps_between_images_have_the_colour_of_padding(dataset):
    layout = arrange(dataset.sizes[:4], grid=2, cell=None)
    drawn = np.asarray(draw_grid(SampleReader(dataset, [], seed=0, settings=SETTINGS), 0, layout))
    # Image 0 is 30 pixels high in a row of 48.
    assert np.array_equal(drawn[30:48, :50], np.broadcast_to(np.array(FILL, dtype=np.uint8), (18, 50, 3)))


def test_boxes_and_areas_are_scaled_with_their_images(dataset, tmp_path):
    one = dataset.subset([0])  # 30 x 50
    composed = compose_grids(one, tmp_path / "grids", grid=1, cell=(15, 100))
    # The factor is min(15 / 30, 100 / 50) = 1/2 in both directions.
    assert composed.sizes.tolist() == [[15, 100]]
    assert composed.boxes_xywh.tolist() == [[0.5, 1, 5, 6.5], [1.5, 2, 8.5, 7]]
    assert composed.areas.tolist() == [10 * 13 / 2 / 4, 17 * 14 / 2 / 4]


def test_files_contain_the_returned_dataset(dataset, tmp_path):
    composed = compose_grids(dataset, tmp_path / "grids", grid=2)
    file = tmp_path / "grids" / "annotations" / "instances_composed.json"
    read = read_dataset((DataSource(annotations=str(file), images=str(tmp_path / "grids" / "composed")),))
    assert read.paths == composed.paths and read.category_ids == (3, 7)
    for field in ("sizes", "box_start", "boxes_xywh", "areas", "labels", "is_crowd"):
        assert np.array_equal(getattr(read, field), getattr(composed, field)), field
    assert sum(annotation["iscrowd"] for annotation in COCO(str(file)).anns.values()) == 4
    with Image.open(composed.paths[0]) as image:
        assert image.format == "JPEG" and image.size == tuple(composed.sizes[0, ::-1].tolist())


def test_same_seed_gives_the_same_files_and_another_seed_others(dataset, tmp_path):
    def content(name: str, seed: int) -> list[bytes]:
        composed = compose_grids(dataset, tmp_path / name, grid=2, seed=seed)
        return [(tmp_path / name / "composed" / "000001.jpg").read_bytes(), composed.boxes_xywh.tobytes()]

    first = content("one", 0)
    assert content("two", 0) == first
    assert content("three", 1) != first


@needs_blood_cells
def test_cells_of_real_images_are_unchanged_up_to_jpeg_compression(tmp_path):
    cells = blood_cells("val").subset(range(4))
    composed = compose_grids(cells, tmp_path / "grids", grid=2)
    order = np.random.default_rng(0).permutation(4).tolist()
    rows = [row for index in order for row in range(*cells.box_start[index : index + 2])]
    index_of = {row: index for index in order for row in range(*cells.box_start[index : index + 2])}
    with Image.open(composed.paths[0]) as file:
        image = np.asarray(file, dtype=np.float32)
    for row, moved in zip(rows, composed.boxes_xywh, strict=True):
        with Image.open(cells.paths[index_of[row]]) as file:
            original = pixels_of(file.convert("RGB"), cells.boxes_xywh[row])
        found = pixels_of(image, moved)
        # JPEG at quality 95 changes samples by about 2 on average; neighbouring cells differ by more than 10.
        assert np.abs(found - original).mean() < 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda dataset: (dataset, {"grid": 3}), r"5 images, expected at least 9 for a 3 x 3 grid"),
        (lambda dataset: (dataset, {"grid": 2, "cell": (40_000, 10)}), r"20x80000 pixels; lower --grid"),
    ],
)
def test_impossible_grids_are_rejected(dataset, tmp_path, change, message):
    dataset, options = change(dataset)
    with pytest.raises(InputError, match=message):
        compose_grids(dataset, tmp_path / "grids", **options)
    assert not (tmp_path / "grids").exists()


def test_other_files_are_never_mixed_with_the_grids(dataset, tmp_path):
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        compose_grids(dataset, tmp_path, grid=2)


def test_command_joins_annotation_files(dataset, tmp_path, capsys):
    for name, indices in (("a", [0, 1]), ("b", [2, 3])):
        write_coco(dataset.subset(indices), tmp_path, split=name)
    files = [str(tmp_path / "annotations" / f"instances_{name}.json") for name in "ab"]
    output = tmp_path / "grids"
    assert main([str(output), str(tmp_path), *files, "--grid", "2", "--cell", "20x30"]) == 0
    assert "1 images of up to 60x40 pixels with 8 objects, composed from 4 of 4 images" in capsys.readouterr().out
    document = json.loads((output / "annotations" / "instances_composed.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["000001.jpg"]
    assert main([str(output), str(tmp_path), *files]) == 2
    assert "expected at least 16" in capsys.readouterr().err
