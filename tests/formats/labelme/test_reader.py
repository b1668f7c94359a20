import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.labelme import file as labelme_file
from retinanet.formats.labelme.file import MAX_BYTES
from retinanet.formats.labelme.reader import read_labelme
from tests.helpers.annotation_files import boxes_by_image, message_of


def shape(label="cat", points=((1, 2), (4, 6.5)), kind="rectangle", **fields):
    return {"label": label, "points": [list(point) for point in points], "shape_type": kind, **fields}


def document(*shapes, image="a.jpg", **fields):
    return {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None, **fields}


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes files into a dataset folder and returns the DataSource."""

    def write(files, **fields):
        for name, content in files.items():
            file = tmp_path / "set" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps(content) if isinstance(content, dict | list) else content
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return DataSource(annotations=str(tmp_path / "set"), **fields)

    return write


def fault_of(source) -> str:
    return message_of(read_labelme, source).removeprefix("set: ")


# ---- shapes


@pytest.mark.parametrize(
    ("kind", "points", "box"),  # box: left, top, width, height
    [
        ("rectangle", [(1, 2), (4, 6.5)], [1, 2, 3, 4.5]),
        ("rectangle", [(4, 2), (1, 6.5)], [1, 2, 3, 4.5]),
        ("rectangle", [(4, 6.5), (1, 2)], [1, 2, 3, 4.5]),
        ("rectangle", [(1, 2), (4, 2), (4, 6.5), (1, 6.5)], [1, 2, 3, 4.5]),
        ("polygon", [(2, 2), (4, 3), (1, 6.5)], [1, 2, 3, 4.5]),
        (None, [(2, 2), (4, 3), (1, 6.5)], [1, 2, 3, 4.5]),
        ("circle", [(10, 20), (13, 24)], [5, 15, 10, 10]),  # radius 5: 3-4-5
        ("mask", [(1, 2), (4, 6)], [1, 2, 4, 5]),  # columns 1 to 4, rows 2 to 6
        ("oriented_rectangle", [(0, 2), (2, 0), (4, 2), (2, 4)], [0, 0, 4, 4]),
    ],
)
def test_box_around_a_shape(folder, kind, points, box):
    read = read_labelme(folder({"a.json": document(shape(points=points, kind=kind))}))
    assert boxes_by_image(read) == {"a.jpg": [("cat", box)]}


def test_shape_without_a_type_is_a_polygon(folder):
    without = {"label": "cat", "points": [[2, 2], [4, 3], [1, 6.5]]}
    assert boxes_by_image(read_labelme(folder({"a.json": document(without)}))) == {"a.jpg": [("cat", [1, 2, 3, 4.5])]}


@pytest.mark.parametrize("kind", ["point", "line", "linestrip", "points"])
def test_shapes_without_area_are_skipped(folder, kind):
    read = read_labelme(folder({"a.json": document(shape(kind=kind), shape(), image="a.jpg")}))
    assert read.entry_numbers.tolist() == [2] and read.entry == "shape"
    assert [finding.message.split(": ")[0] for finding in read.findings] == ["1 point(s) and line(s) skipped"]


def test_embedded_image_flags_and_groups_are_ignored(folder):
    content = document(shape(group_id=3, flags={"crowd": True}, description=""), imageData="not base64 at all")
    read = read_labelme(folder({"a.json": content}))
    assert not read.is_crowd.any() and np.isnan(read.areas).all() and read.image_ids is None


# ---- images


def test_images_are_ordered_by_the_names_of_their_files(folder):
    source = folder(
        {
            "b.json": document(shape(), image="b.jpg", imageWidth=30, imageHeight=20),
            "a.json": document(image="a.png", imageWidth=3.5, imageHeight=None),
            "sub/c.json": document(shape("dog"), shape(), image="c.jpg", imageWidth=True, imageHeight=0),
        }
    )
    read = read_labelme(source)
    assert read.file_names == ("a.png", "b.jpg", "sub/c.jpg")
    assert read.image_index.tolist() == [1, 2, 2]
    assert read.sizes.tolist() == [[0, 0], [20, 30], [0, 0]]
    assert (read.category_names, read.category_index.tolist()) == (("cat", "dog"), [0, 1, 0])


def test_unlabelled_images_and_other_files_are_skipped_and_counted(folder, tmp_path):
    source = folder({"a.json": document(shape()), "other.json": [1], "info.json": {"images": []}, "notes.txt": "x"})
    for name in ("a.jpg", "b.jpg", "c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / name)
    read = read_labelme(source)
    assert read.file_names == ("a.jpg",)
    unlabelled, other = map(str, read.findings)
    assert ": 2 image(s) without a JSON file skipped: they are unlabelled" in unlabelled
    assert ": 2 JSON file(s) without imagePath and shapes skipped" in other


def test_split_is_a_subfolder(folder):
    source = folder({"train/a.json": document(shape()), "val/b.json": document(shape(), image="b.jpg")}, split="val")
    assert read_labelme(source).file_names == ("val/b.jpg",)


@pytest.mark.parametrize(
    ("image", "name"),
    [("x.jpg", "train/x.jpg"), ("../images/x.jpg", "images/x.jpg"), ("..\\images\\x.jpg", "images/x.jpg"),
     ("./sub//x.jpg", "train/sub/x.jpg"), ("../train/x.jpg", "train/x.jpg")],
)  # fmt: skip
def test_image_path_is_relative_to_its_file(folder, image, name):
    assert read_labelme(folder({"train/a.json": document(shape(), image=image)})).file_names == (name,)


def test_absolute_path_inside_the_folder_is_used(folder, tmp_path):
    source = folder({"a.json": document(shape(), image=str(tmp_path / "set" / "images" / "x.jpg"))})
    assert read_labelme(source).file_names == ("images/x.jpg",)


OUTSIDE = ["../x.jpg", "..\\x.jpg", "/etc/passwd", "C:\\images\\x.jpg", "sub/../../set2/x.jpg", "..", "."]


@pytest.mark.parametrize("image", OUTSIDE)
def test_image_path_must_not_point_outside_the_folder(folder, image):
    message = fault_of(folder({"a.json": document(shape(), image=image)}))
    assert message.startswith("1 file(s) have an imagePath outside ") and f"a.json ({image!r})" in message


@pytest.mark.parametrize(
    ("image", "name"),
    [("x.jpg", "x.jpg"), ("../images/sub/x.jpg", "sub/x.jpg"), ("/home/me/x.jpg", "x.jpg"), ("D:\\me\\x.jpg", "x.jpg"),
     ("..\\..\\x.jpg", "x.jpg")],
)  # fmt: skip
def test_paths_are_looked_up_in_the_configured_image_folder(folder, tmp_path, image, name):
    source = folder({"a.json": document(shape(), image=image)}, images=str(tmp_path / "images"))
    read = read_labelme(source)
    assert (read.file_names, read.image_folder) == ((name,), str(tmp_path / "images"))


# ---- classes


def test_label_file_determines_the_order_of_the_classes(folder):
    files = {"labels.txt": "__ignore__\n_background_\ndog\nowl\ncat\n", "a.json": document(shape(), shape("dog"))}
    read = read_labelme(folder(files))
    assert (read.category_names, read.category_index.tolist()) == (("dog", "owl", "cat"), [2, 0])


def test_label_missing_from_the_label_file_is_reported(folder):
    message = fault_of(folder({"labels.txt": "dog\n", "a.json": document(shape())}))
    assert message == (
        "1 label(s) are not in labels.txt; add them to that file or correct their names (a.json ('cat'))"
    )


# ---- faults


def test_all_faults_are_reported_at_once(folder):
    message = fault_of(
        folder(
            {
                "a.json": "{",
                "b.json": b'{"imagePath": "b.jpg", "shapes": "\xb7\xbd"}',
                "c.json": document(shape("")) | {"shapes": {}},
                "d.json": document(image=None),
                "e.json": document(5, shape(3), shape(" "), shape(points=[(1, 2)]), shape(kind="polygon"), image="e"),
                "f.json": document(shape(points=[(1, float("nan")), (2, 3)]), shape(kind={}), image="f"),
                "g.json": document(image="e"),
            }
        )
    )
    assert message == (
        "9 problem(s)\n"
        "  1 file(s) are not JSON; save them in labelme again "
        "(a.json (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)))\n"
        "  1 file(s) are not UTF-8 text; save them as UTF-8 (b.json)\n"
        "  1 file(s) have invalid shapes, expected a list (c.json ({}))\n"
        "  1 file(s) have an invalid imagePath, expected the path of the image (d.json (None))\n"
        "  1 shape(s) are not objects with label and points (e.json shape 1 (5))\n"
        "  2 shape(s) have an invalid label, expected the name of a class (e.json shape 2 (3); e.json shape 3 (' '))\n"
        "  2 shape(s) have invalid points, expected at least 2 pairs of numbers (e.json shape 4 ([[1, 2]]); "
        "f.json shape 1 ([[1, nan], [2, 3]]))\n"
        "  2 shape(s) have invalid points, expected at least 3 pairs of numbers (e.json shape 5 ([[1, 2], [4, 6.5]]); "
        "f.json shape 2 ([[1, 2], [4, 6.5]]))\n"
        "  1 file(s) describe the same image as another file; remove one of them (g.json ('e', also in e.json))"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 200_000, "file(s) are not JSON"),
        (b'{"shapes": ' + b'{"a":' * 100_000, "file(s) are not JSON"),
        (b"9" * 10_000, "file(s) are not JSON"),
        (b"", "file(s) are not JSON"),
        (b"\0" * 100, "file(s) are not JSON"),
        (b'{"imagePath": "a.jpg", "shapes": [{"label": "x", "points": ' + b"[" * 500 + b"]" * 500 + b"}]}",
         "shape(s) have invalid points"),
        (b'{"imagePath": "a.jpg", "shapes": [{"label": "x", "points": [[1e999, 1], [2, 2], [3, 3]]}]}',
         "shape(s) have invalid points"),
    ],
    ids=range(7),
)  # fmt: skip
def test_hostile_files_are_rejected(folder, content, problem):
    message = fault_of(folder({"a.json": content}))
    assert message.startswith(f"1 {problem}") and len(message) < 300


def test_large_files_are_read_without_the_embedded_image(folder, monkeypatch):
    monkeypatch.setattr(labelme_file, "MAX_PARSED", 1000)
    content = document(shape(), shape("dog"))
    small = read_labelme(folder({"a.json": content}))
    large = read_labelme(folder({"a.json": content | {"imageData": "x" * 2000, "other": [1] * 1000}}))
    assert np.array_equal(large.boxes_xywh, small.boxes_xywh) and len(small.boxes_xywh) == 2
    assert (large.file_names, large.category_names) == (small.file_names, small.category_names)
    message = fault_of(folder({"a.json": document(*[shape()] * 100)}))
    assert message == (
        "1 file(s) cannot be read; correct or restore them (a.json (it has more than 1000 bytes besides imageData))"
    )
    assert "not JSON" in fault_of(folder({"a.json": json.dumps(content).encode() + b" " * 2000 + b"x"}))


def test_a_huge_file_is_not_read(folder, tmp_path):
    source = folder({"a.json": b"{"})
    with open(tmp_path / "set" / "a.json", "r+b") as file:
        file.truncate(MAX_BYTES + 1)  # a sparse file, which takes no disk space
    assert fault_of(source) == (
        f"1 file(s) cannot be read; correct or restore them (a.json (it has more than {MAX_BYTES} bytes))"
    )


def test_embedded_images_are_not_kept_in_memory(folder, monkeypatch):
    """Reading 60 files of 0.5 MB (30 MB) takes a few times the memory of one: its bytes, its text, its image."""
    monkeypatch.setattr(labelme_file, "MAX_BYTES", 1_000_000)  # the buffer for each file
    embedded = {"imageData": "x" * 500_000}
    source = folder({f"{n}.json": document(shape(), image=f"{n}.jpg") | embedded for n in range(60)})
    tracemalloc.start()
    try:
        assert len(read_labelme(source)) == 60
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": "x"}, "has no labelme files; expected one JSON file per image"),
        ({"a.json": {"images": []}}, "has no labelme files; expected one JSON file per image"),
        ({"a.json": document()}, "no labelme file has a closed shape; expected at least one object"),
    ],
)
def test_folder_without_objects_is_rejected(folder, files, message):
    assert fault_of(folder(files)) == message


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["polygon", "a.jpg"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["shapes", "points", "label", "shape_type", "imagePath", "x"]), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=50)), JSON)
def test_garbage_raises_only_input_errors(folder, content, shapes):
    some = {"imagePath": "a.jpg", "shapes": shapes}
    try:
        read = read_labelme(folder({"a.json": content, "b.json": some, "c.json": document(shape(), image="c.jpg")}))
    except InputError:
        return
    assert np.isfinite(read.boxes_xywh).all() and len(read.boxes_xywh) == len(read.image_index) > 0
