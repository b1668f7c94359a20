import pytest

from retinanet.formats.read import read_dataset
from tests.helpers.coco_files import annotations_of, box, document, error_of, errors_of, image, warnings_in

UNUSABLE = {
    "without area, dropped": ([4, 4, 0, 3], [4, 4, 3, 0], [4, 4, 0, 0], [4, 4, 1e-7, 3], [4, 4, 3, 1e-7]),
    "inverted, dropped": ([9, 4, -3, 3], [4, 9, 3, -3], [9, 9, -3, -3]),
    "outside the image, dropped": ([20, 0, 5, 5], [0, 10, 5, 5], [-6, 0, 5, 5], [0, -5, 5, 5], [1e8, 1e8, 9, 9]),
}
CLIPPED = {(-2, 3, 5, 5): [0, 3, 3, 8], (17, 3, 5, 5): [17, 3, 20, 8], (3, -4, 5, 5): [3, 0, 8, 1],
       (3, 8, 5, 5): [3, 8, 8, 10], (-99, -99, 999, 999): [0, 0, 20, 10]}  # fmt: skip


@pytest.mark.parametrize(("kind", "bbox"), [(kind, bbox) for kind, boxes in UNUSABLE.items() for bbox in boxes])
def test_unusable_boxes_are_dropped_and_reported(source, caplog, kind, bbox):
    some = source(document([image(1)], [box(8, 1, bbox), box(9, 1, [1, 1, 2, 2])]))
    data = read_dataset((some,))
    assert data.image(0).boxes.tolist() == [[1, 1, 3, 3]]
    where = f"(annotation 8 of 1.png (20x10), class 'cat': {[float(value) for value in bbox]})"
    assert warnings_in(caplog) == [f"{some.annotations}: 1 box(es) {kind} {where}"]
    assert [a["bbox"] for a in annotations_of(data)] == [[1, 1, 2, 2]]
    assert error_of(some, strict=True) == (
        f"some.json: 1 box(es) {kind.partition(',')[0]}, expected boxes with positive width and height inside their "
        f"image; correct the file, or set data.strict: false to drop or clip such boxes {where}"
    )


@pytest.mark.parametrize("bbox", CLIPPED)
def test_boxes_partly_outside_are_clipped_and_reported(source, caplog, bbox):
    some = source(document([image(1)], [box(8, 1, list(bbox))]))
    data = read_dataset((some,))
    assert data.image(0).boxes.tolist() == [CLIPPED[bbox]]
    x1, y1, x2, y2 = CLIPPED[bbox]
    assert annotations_of(data)[0]["bbox"] == [x1, y1, x2 - x1, y2 - y1]  # for evaluation
    assert annotations_of(data)[0]["area"] == (x2 - x1) * (y2 - y1)
    where = f"(annotation 8 of 1.png (20x10), class 'cat': {[float(value) for value in bbox]})"
    assert warnings_in(caplog) == [f"{some.annotations}: 1 box(es) partly outside the image, clipped {where}"]
    assert "1 box(es) partly outside the image, expected" in error_of(some, strict=True)


def test_box_up_to_a_pixel_outside_is_clipped_for_training_only(source, caplog):
    """Annotation tools round outwards. Evaluation uses the numbers in the file, so scores equal pycocotools'."""
    some = source(document([image(1)], [box(8, 1, [-1, -0.5, 22, 11.5])]))
    for strict in (False, True):
        data = read_dataset((some,), strict=strict)
        assert data.image(0).boxes.tolist() == [[0, 0, 20, 10]]
        assert annotations_of(data)[0]["bbox"] == [-1, -0.5, 22, 11.5]
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(("area", "expected"), [(200, 50), (30, 30), (None, 50)])
def test_area_of_a_clipped_object_is_at_most_that_of_its_clipped_box(source, area, expected):
    some = source(document([image(1)], [box(8, 1, [15, 0, 20, 10], area=area)]))  # 5 x 10 inside the image
    assert annotations_of(read_dataset((some,)))[0]["area"] == expected


def test_area_of_a_box_inside_the_image_is_taken_from_the_file(source):
    some = source(document([image(1)], [box(8, 1, [1, 1, 2, 2], area=9)]))
    assert annotations_of(read_dataset((some,)))[0]["area"] == 9


def test_each_kind_of_problem_is_logged_once(source, caplog):
    annotations = [box(n, 1 + n % 2, [4, 4, 0, 3]) for n in range(10, 17)] + [box(30, 1, [15, 0, 10, 5])]
    some = source(document([image(1), image(2)], annotations))
    read_dataset((some,))
    assert warnings_in(caplog) == [
        f"{some.annotations}: 7 box(es) without area, dropped (annotation 10 of 1.png (20x10), class 'cat': "
        "[4.0, 4.0, 0.0, 3.0]; annotation 12 of 1.png (20x10), class 'cat': [4.0, 4.0, 0.0, 3.0]; annotation 14 of "
        "1.png (20x10), class 'cat': [4.0, 4.0, 0.0, 3.0]; ...)",
        f"{some.annotations}: 1 box(es) partly outside the image, clipped (annotation 30 of 1.png (20x10), "
        "class 'cat': [15.0, 0.0, 10.0, 5.0])",
    ]
    lines = errors_of(some, strict=True)
    assert lines[0] == "some.json: 2 problem(s)" and len(lines) == 3
    assert lines[1].startswith("7 box(es) without area, expected") and "1 box(es) partly outside" in lines[2]


def test_boxes_of_unselected_classes_are_ignored(source, caplog):
    some = source(document([image(1)], [box(8, 1, [4, 4, 0, 3], category_id=7), box(9, 1, [1, 1, 2, 2])]))
    data = read_dataset((some,), classes=("cat",), strict=True)
    assert len(data.image(0).boxes) == len(annotations_of(data)) == 1
    assert warnings_in(caplog) == []
