import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinanet.errors import InputError
from retinanet.formats.read import read_dataset
from retinanet.formats.yolo import reader
from tests.helpers.dataset_folders import HEIGHT, WIDTH, write_files, write_image
from tests.helpers.yolo_files import CAT, NAMES, message_of, one_image, read, yolo_source

# ---- label lines


def test_missing_and_empty_label_files_mean_no_objects(tmp_path):
    images = dict.fromkeys(["images/a.png", "images/b.png", "images/c.png"])
    write_files(tmp_path, {"data.yaml": NAMES, **images, "labels/a.txt": "", "labels/b.txt": " \n" + CAT + "\n"})
    data = read(tmp_path)
    assert data.image_index.tolist() == [1] and data.entry_numbers.tolist() == [2]
    assert [(finding.severity, str(finding)) for finding in data.findings] == [
        ("note", f"{tmp_path}: 1 image(s) have no label file, and therefore no objects (images/c.png)")
    ]


def test_label_files_without_an_image_are_a_warning(tmp_path):
    labels = dict.fromkeys(["labels/A.txt", "labels/b.txt", "labels/classes.txt"], CAT)
    write_files(tmp_path, {"data.yaml": NAMES, "images/a.png": None, "images/b.png": None, **labels})
    assert [(finding.severity, str(finding)) for finding in read(tmp_path).findings] == [
        ("note", f"{tmp_path}: 1 image(s) have no label file, and therefore no objects (images/a.png)"),
        (
            "warning",
            f"{tmp_path}: 1 label file(s) are not used, because there is no image with the same name (labels/A.txt)",
        ),
    ]
    write_files(tmp_path, {"data.yaml": "train: train.txt\n" + NAMES, "train.txt": "images/b.png"})
    assert read(tmp_path).findings == (), "a list may contain only some images of a folder"


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("1.0 0.25 0.25 0.2 0.2 ", [6, 3, 8, 4]),
        ("1\t0.25\t0.25\t0.2\t0.2", [6, 3, 8, 4]),
        ("\ufeff1 0.25 0.25 0.2 0.2", [6, 3, 8, 4]),
        ("1 0.25 0.25 0.2 0.2 0.9", [6, 3, 8, 4]),  # with a confidence
        ("1 0.25 0.25 2e-1 .2", [6, 3, 8, 4]),
        # The corners of a rotated square, clockwise from the top: x 10 to 30, y 0 to 20.
        ("1 0.5 0 0.75 0.5 0.5 1 0.25 0.5", [10, 0, 20, 20]),
        ("1 0.5 0.25 0.75 0.5 0.25 0.75", [10, 5, 20, 10]),  # a triangle
        ("1 0.5 0.5 1.005 1.005", [-0.1, -0.05, 40.2, 20.1]),  # rounded outwards by the tool
    ],
)
def test_label_lines(line, box, tmp_path):
    folder = one_image(tmp_path, line)
    data = read(folder)
    assert data.category_index.tolist() == [1]
    np.testing.assert_allclose(data.boxes_xywh * ([WIDTH, HEIGHT] * 2), [box], rtol=1e-12, atol=1e-12)


def test_keypoints_are_ignored(tmp_path):
    # Without kpt_shape, the seven values of the second line would be a triangle.
    labels = "0 0.25 0.25 0.2 0.2 0.9 0.9 2\n1 0.25 0.25 0.2 0.2 0.9 0.9\n"
    assert (
        read(one_image(tmp_path, labels, NAMES + "kpt_shape: [1, 3]\n")).boxes_xywh.tolist()
        == [[0.15, 0.15, 0.2, 0.2]] * 2
    )


def test_each_kind_of_conversion_is_one_note(tmp_path):
    folder = one_image(tmp_path, "0 0.1 0.1 0.2 0.1 0.2 0.2\n" * 2 + "0 0.25 0.25 0.2 0.2 0.5\n" * 3)
    assert [(finding.severity, str(finding)) for finding in read(folder).findings] == [
        ("note", f"{folder}: 2 polygon(s) or oriented box(es) are replaced by the boxes around them"),
        ("note", f"{folder}: 3 label(s) have a sixth value, a confidence, which is ignored"),
    ]


def test_whole_pixels_are_restored_exactly(tmp_path):
    rng = np.random.default_rng(0)
    width, height = 1237, 911  # primes, so that no fraction is exact
    left_top = rng.integers(0, 800, (200, 2))
    boxes = np.concatenate([left_top, rng.integers(1, 100, (200, 2))], axis=1)
    lines = [
        f"0 {(x + w / 2) / width!r} {(y + h / 2) / height!r} {w / width!r} {h / height!r}"
        for x, y, w, h in boxes.tolist()
    ]
    write_files(tmp_path, {"classes.txt": "cat", "labels/a.txt": "\n".join(lines)})
    write_image(tmp_path / "images/a.png", width=width, height=height)
    data = read_dataset((yolo_source(tmp_path),))
    assert np.array_equal(data.boxes_xywh, boxes)
    assert np.array_equal(data.areas, boxes[:, 2] * boxes[:, 3])


# ---- faults


def test_all_faults_are_reported_at_once(tmp_path):
    images = dict.fromkeys(["images/a.png", "images/b.png"])
    labels = {
        "labels/a.txt": CAT + "2 0.5 0.5 0.1 0.1\n-1 0.5 0.5 0.1 0.1\n0.5 0.5 0.5 0.1 0.1\n0 120 80 40 30\n",
        "labels/b.txt": "cat 0.5 0.5 0.1 0.1\n0 nan 0.5 0.1 0.1\n0 0.5 0.5\n0 inf 0.5 0.1 0.1\n0,0.5,0.5,0.1,0.1\n",
    }
    message = message_of(write_files(tmp_path, {"data.yaml": NAMES, **images, **labels}))
    assert message == (
        "FOLDER: 4 problem(s)\n"
        "  3 line(s) have a class number without a name: data.yaml has 2 name(s), numbered from 0; correct the numbers "
        "or add the missing names (labels/a.txt:2 ('2 0.5 0.5 0.1 0.1'); labels/a.txt:3 ('-1 0.5 0.5 0.1 0.1'); "
        "labels/a.txt:4 ('0.5 0.5 0.5 0.1 0.1'))\n"
        f"  {reader.IN_PIXELS.format(count=1)} (labels/a.txt:5 ('0 120 80 40 30'))\n"
        f"  {reader.NOT_NUMBERS.format(count=4)} (labels/b.txt:1 ('cat 0.5 0.5 0.1 0.1'); "
        "labels/b.txt:2 ('0 nan 0.5 0.1 0.1'); labels/b.txt:4 ('0 inf 0.5 0.1 0.1'); ...)\n"
        f"  {reader.WRONG_COUNT.format(count=1)} (labels/b.txt:3 ('0 0.5 0.5'))"
    )


def test_many_faults_are_counted(tmp_path):
    message = message_of(one_image(tmp_path, "0 10 10 5 5\n" * 1000))
    assert (
        message.startswith("FOLDER: 1000 line(s)") and message.count("labels/a.txt") == 3 and message.endswith("; ...)")
    )


def test_dataset_without_any_label_file_is_an_error(tmp_path):
    write_files(tmp_path, {"data.yaml": "train: images\n" + NAMES, "images/a.png": None})
    assert message_of(tmp_path) == (
        "FOLDER: none of the 1 images has a label file; expected for example images/a.txt for images/a.png"
    )


def test_empty_split_is_an_error(tmp_path):
    write_files(tmp_path, {"data.yaml": "train: images\n" + NAMES, "labels/a.txt": CAT, "images/readme.md": ""})
    assert message_of(tmp_path) == "FOLDER: no images in images; correct the folder, or set data.train.split"
    write_files(tmp_path, {"data.yaml": "train: gone\n" + NAMES})
    assert message_of(tmp_path) == (
        "gone: cannot be read: No such file or directory; correct the path or restore the file"
    )


# ---- hostile files


def test_large_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_BYTES", 100)
    monkeypatch.setattr(reader, "MAX_LINE", 50)
    polygon = CAT + "0" + " 0.25" * 20
    assert "labels/a.txt:2 (more than 50 characters)" in message_of(one_image(tmp_path, polygon[:90]))
    assert message_of(one_image(tmp_path, CAT * 10)) == (
        f"FOLDER: {reader.NOT_READABLE.format(count=1)} (labels/a.txt (it has more than 100 bytes))"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_label_file_is_an_error(tmp_path):
    folder = one_image(tmp_path, CAT)
    (folder / "labels/a.txt").chmod(0)
    assert "Permission denied" in message_of(folder)


GARBAGE = st.one_of(
    st.binary(max_size=60),
    st.text(alphabet="01.5- eE\n\t,:[]{}x/~&*'\"#nami", max_size=60).map(str.encode),
    st.sampled_from([CAT.encode(), NAMES.encode(), b"names: [a]\ntrain: ../..", b"names: {0: a}\ntrain: a.txt"]),
)


@given(yaml=st.just(NAMES.encode()) | GARBAGE, label=GARBAGE, listed=GARBAGE)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_generated_files_raise_only_input_errors(yaml, label, listed, tmp_path):
    for name in ("data.yaml", "classes.txt"):
        Path(tmp_path / "data.yaml").unlink(missing_ok=True)
        write_files(tmp_path, {name: yaml, "a.txt": label, "train.txt": listed, "a.png": None})
        try:
            read_dataset((yolo_source(tmp_path),))
        except InputError as error:
            assert str(error)
