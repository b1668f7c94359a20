import hotcoco
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.open_images.reader import read_open_images
from retinanet.formats.read import read_dataset
from tests.helpers.annotation_files import boxes_by_image, message_of
from tests.helpers.coco_files import annotations_of

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)
CLASSES = "/m/01yrx,Cat\n/m/0bt9lr,Dog\n/m/09d5_,Owl\n"


def row(image="a1", label="/m/01yrx", x=(0.25, 0.5), y=(0.125, 0.75), *, confidence=1, group=0):
    return f"{image},xclick,{label},{confidence},{x[0]},{x[1]},{y[0]},{y[1]},0,1,{group},0,-1\n"


@pytest.fixture
def boxes(tmp_path):
    """Return a function that writes a file of boxes and its class descriptions, and returns the DataSource."""

    def write(content, classes=CLASSES, images=(), name="train-annotations-bbox.csv"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        (tmp_path / "class-descriptions-boxable.csv").unlink(missing_ok=True)
        if classes is not None:
            (tmp_path / "class-descriptions-boxable.csv").write_text(classes)
        (tmp_path / "train").mkdir(exist_ok=True)
        for image in images:
            Image.new("RGB", (80, 40)).save(tmp_path / "train" / image)
        return DataSource(annotations=str(file), images=str(tmp_path / "train"))

    return write


def test_columns_are_in_the_order_of_the_header(boxes):
    read = read_open_images(boxes(HEADER + row()), "train")
    # XMin 0.25, XMax 0.5, YMin 0.125, YMax 0.75: left, top, width, height in fractions
    assert boxes_by_image(read) == {"a1.jpg": [("Cat", [0.25, 0.125, 0.25, 0.625])]}
    assert read.is_relative and (read.entry, read.entry_numbers.tolist()) == ("line", [2])


def test_columns_are_found_by_name(boxes):
    read = read_open_images(boxes("YMax,YMin,XMax,XMin,LabelName,ImageID\n0.75,0.125,0.5,0.25,/m/01yrx,a1\n"), "train")
    assert boxes_by_image(read) == {"a1.jpg": [("Cat", [0.25, 0.125, 0.25, 0.625])]}
    assert not read.is_crowd.any()


def test_classes_are_those_of_the_class_descriptions(boxes):
    read = read_open_images(boxes(HEADER + row(label="/m/0bt9lr") + row()), "train")
    assert (read.category_names, read.category_index.tolist()) == (("Cat", "Dog", "Owl"), [1, 0])
    with_header = read_open_images(boxes(HEADER + row(), "LabelName,DisplayName\n" + CLASSES), "train")
    assert with_header.category_names == ("Cat", "Dog", "Owl")


def test_without_class_descriptions_labels_are_sorted(boxes):
    read = read_open_images(boxes(HEADER + row(label="/m/9") + row(label="/m/1"), None), "train")
    assert (read.category_names, read.category_index.tolist()) == (("/m/1", "/m/9"), [1, 0])


def test_groups_are_crowd_regions_and_absent_classes_have_no_box(boxes):
    read = read_open_images(boxes(HEADER + row(group=1) + row("b2", confidence=0, x=("", "")) + row("a1")), "train")
    assert read.file_names == ("a1.jpg", "b2.jpg")
    assert read.is_crowd.tolist() == [True, False] and read.image_index.tolist() == [0, 0]


def test_images_may_have_any_suffix(boxes):
    source = boxes(HEADER + row("a1") + row("b2") + row("c3"), images=["a1.png", "b2.JPG"])
    assert read_open_images(source, "train").file_names == ("a1.png", "b2.JPG", "c3.jpg")


def test_folder_of_images_is_named_like_the_split(boxes, tmp_path):
    source = boxes(HEADER + row(), images=["a1.png"]).model_copy(update={"images": None})
    assert read_open_images(source, "train").image_folder == str(tmp_path / "train")


def test_boxes_become_pixels(boxes):
    data = read_dataset((boxes(HEADER + row(), images=["a1.jpg"]),))  # 80 x 40 pixels
    assert data.boxes_xywh.tolist() == [[20, 5, 20, 25]]


def test_boxes_agree_with_hotcoco(boxes, tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for index in range(40):
        x, y = np.sort(rng.integers(0, 81, 2)) / 80, np.sort(rng.integers(0, 41, 2)) / 40
        if x[0] < x[1] and y[0] < y[1]:
            label = ("/m/01yrx", "/m/0bt9lr", "/m/09d5_")[index % 3]
            lines.append(row(f"i{index % 7}", label, x, y, group=int(index % 5 == 0)))
    source = boxes(HEADER + "".join(lines), images=[f"i{index}.jpg" for index in range(7)])
    ours = read_dataset((source,))
    other = hotcoco.COCO.from_oid(
        source.annotations,
        class_descriptions=str(tmp_path / "class-descriptions-boxable.csv"),
        images_dir=source.images,
    )
    names = {image["id"]: image["file_name"].removesuffix(".jpg") for image in other.dataset["images"]}
    classes = {category["id"]: category["name"] for category in other.dataset["categories"]}
    theirs = sorted(
        (names[item["image_id"]], classes[item["category_id"]], [round(value, 6) for value in item["bbox"]],
         bool(item["is_group_of"]))
        for item in other.dataset["annotations"]
    )  # fmt: skip
    stems = {
        index: path.rpartition("/")[2].removesuffix(".jpg")
        for index, path in zip(ours.image_ids, ours.paths, strict=True)
    }
    class_of = dict(zip(ours.category_ids, ours.class_names, strict=True))
    assert theirs == sorted(
        (stems[item["image_id"]], class_of[item["category_id"]], item["bbox"], bool(item["iscrowd"]))
        for item in annotations_of(ours)
    )
    assert len(theirs) == len(lines) > 25


def test_image_ids_must_not_point_outside_the_folder(boxes, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "secret.jpg")
    with pytest.raises(InputError, match="point outside"):
        read_dataset((boxes(HEADER + row("../secret")),))


def test_all_faults_are_reported_with_their_lines(boxes):
    content = HEADER + row(x=(20, 40)) + row(y=("nan", 1)) + row("") + row(label="/m/x") + "a,b\n"
    assert message_of(read_open_images, boxes(content), "train") == (
        "train-annotations-bbox.csv: 5 problem(s)\n"
        "  1 row(s) have an invalid XMin, expected a fraction of the image, 0 to 1 (line 2 ('20'))\n"
        "  1 row(s) have an invalid YMin, expected a fraction of the image, 0 to 1 (line 3 ('nan'))\n"
        "  1 row(s) have no ImageID or no LabelName; add it or remove the row (line 4)\n"
        "  1 row(s) have fewer than 8 fields (line 6 (2))\n"
        "  1 LabelName(s) are not in the class descriptions; add them to that file (line 5 ('/m/x'))"
    )


@pytest.mark.parametrize(
    ("content", "classes", "message"),
    [
        ("", None, "train-annotations-bbox.csv: line 1 lacks the columns ImageID, LabelName, XMin, YMin, XMax, YMax; "
                   "found an empty file; expected ImageID,Source"),
        ("ImageID,XMin\n", None, "train-annotations-bbox.csv: line 1 lacks the columns LabelName, YMin, XMax, YMax; "
                                 "found ['ImageID', 'XMin']; expected"),
        (HEADER, CLASSES, "train-annotations-bbox.csv: has no boxes; expected rows ImageID,"),
        (HEADER + row(), "/m/1,Cat\n/m/2,Cat\n/m/3\n",
         "class-descriptions-boxable.csv: 2 problem(s)\n"
         "  1 row(s) repeat a name; label names and class names must be unique (line 2 (['/m/2', 'Cat']))\n"
         "  1 row(s) are not a class, expected a label name and a class name (line 3 (['/m/3']))"),
    ],
)  # fmt: skip
def test_file_in_another_format_is_rejected(boxes, content, classes, message):
    assert message_of(read_open_images, boxes(content, classes), "train").startswith(message)


FIELD = st.one_of(st.text(max_size=5), st.sampled_from(["", "a1", "0.5", "1", "0", "nan", "/m/01yrx"]))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(FIELD, min_size=6, max_size=14).map(",".join), max_size=6), st.text(max_size=20) | st.none())
def test_garbage_raises_only_input_errors(boxes, lines, classes):
    content = (HEADER + row() + "\n".join(lines)).encode("utf-8", "surrogatepass")
    try:
        read = read_open_images(boxes(content, classes and classes.encode("utf-8", "replace").decode()), "train")
    except InputError:
        return
    assert np.isfinite(read.boxes_xywh).all() and len(read.boxes_xywh) == len(read.image_index) > 0
