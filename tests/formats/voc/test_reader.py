import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.read import read_dataset
from retinanet.formats.voc import xml_file
from retinanet.formats.voc.reader import read_voc
from tests.helpers.blood_cells import BLOOD_CELLS, blood_cells, needs_blood_cells
from tests.helpers.dataset_folders import HEIGHT, WIDTH, differences, voc_xml, write_files

CAT, DOG = ("cat", 6, 3, 14, 7), ("dog", 18, 5, 22, 15)


def source(folder, **fields) -> DataSource:
    return DataSource(annotations=str(folder), format="voc", **fields)


def read(folder, part="train", **fields):
    return read_voc(source(folder, **fields), part)


def message_of(folder, part="train", **fields) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, part, **fields)
    message = str(caught.value)
    return message.replace(f"{folder}/", "").replace(str(folder), "FOLDER")


@pytest.fixture
def devkit(tmp_path):
    """A dataset in the layout of Pascal VOC itself."""
    return write_files(
        tmp_path,
        {
            "Annotations/a.xml": voc_xml(DOG, CAT, filename="a.png"),
            "Annotations/b.xml": voc_xml(filename="b.png"),
            "Annotations/c.xml": voc_xml(CAT, filename="c.png"),
            **dict.fromkeys(["JPEGImages/a.png", "JPEGImages/b.png", "JPEGImages/c.png"]),
            "ImageSets/Main/train.txt": "b\r\na\n\n",
            "ImageSets/Main/val.txt": "c\n",
            "ImageSets/Main/trainval.txt": "a\nb\nc\n",
            "ImageSets/Main/cat_train.txt": "a  1\nb -1\n",
        },
    )


# ---- layouts


def test_splits_are_read_in_the_order_of_their_lists(devkit):
    train = read(devkit)
    assert train.file_names == ("b.png", "a.png")
    assert train.category_names == ("cat", "dog")
    assert train.image_index.tolist() == [1, 1]
    assert train.category_index.tolist() == [1, 0], "objects keep the order of the file"
    assert train.boxes_xywh.tolist() == [[18, 5, 4, 10], [6, 3, 8, 4]], "no offset is subtracted"
    assert train.sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    assert train.entry_numbers.tolist() == [1, 2]
    assert read(devkit, "val").file_names == ("c.png",)
    assert read(devkit, split="trainval").file_names == ("a.png", "b.png", "c.png")
    assert "has no split test, only train, val, trainval;" in message_of(devkit, split="test")

    data = read_dataset((source(devkit),), classes=("dog", "cat"))
    assert data.image_ids == (1, 2) and data.category_ids == (1, 2)
    assert data.labels.tolist() == [0, 1] and data.areas.tolist() == [40, 32]


def test_xml_files_beside_images(tmp_path):
    write_files(tmp_path, {"a.png": None, "a.xml": voc_xml(CAT), "b.png": None})
    assert read(tmp_path).file_names == ("a.png",)
    assert [(finding.severity, str(finding)) for finding in read(tmp_path).findings] == [
        ("note", f"{tmp_path}: 1 image(s) have no XML file and are not used (b.png)")
    ]


@pytest.mark.parametrize("annotations", ["annotations", "xmls", "."])
def test_folders_named_like_splits(annotations, tmp_path):
    for split, name in (("train", "a"), ("valid", "b")):
        write_files(tmp_path, {f"{annotations}/{split}/{name}.xml": voc_xml(CAT, filename=f"{name}.png")})
        write_files(tmp_path, {f"{split if annotations == '.' else f'images/{split}'}/{name}.png": None})
    assert read(tmp_path).file_names == ("train/a.png",)
    assert read(tmp_path, "val").file_names == ("valid/b.png",)


def test_annotation_folder_belongs_to_its_dataset(devkit):
    assert read(devkit / "Annotations", "val").file_names == ("c.png",)


def test_images_can_be_elsewhere(tmp_path):
    write_files(tmp_path, {"set/a.xml": voc_xml(CAT, filename="a.png"), "photos/a.png": None})
    data = read_dataset((source(tmp_path / "set", images=str(tmp_path / "photos")),))
    assert data.paths == (f"{tmp_path}/photos/a.png",)


@pytest.mark.parametrize(
    ("xml_name", "file_name", "images", "expected"),
    [
        ("a", "a.png", ["a.jpg", "a.png"], "a.png"),
        ("a", "", ["a.bmp"], "a.bmp"),
        ("a", "a.JPG", ["a.jpeg"], "a.jpeg"),
        ("a", "old.png", ["a.png", "old.png"], "a.png"),  # labelImg keeps the old name when files are renamed
        ("a", "b.png", ["b.png"], "b.png"),
        ("sub/a", "a.png", ["sub/a.png", "a.png"], "sub/a.png"),
        ("sub/a", "a.png", ["a.png"], "a.png"),
        ("a.b", "a.b.png", ["a.b.png", "a.png"], "a.b.png"),
        ("a", "gone.png", [], "gone.png"),
        ("a", "", [], "a.jpg"),
    ],
)
def test_image_of_an_xml_file(xml_name, file_name, images, expected, tmp_path):
    write_files(tmp_path, {f"Annotations/{xml_name}.xml": voc_xml(CAT, filename=file_name)})
    write_files(tmp_path, {f"JPEGImages/{name}": None for name in images} | {"JPEGImages/other.png": None})
    assert read(tmp_path).file_names == (expected,)


@pytest.mark.parametrize("listed", ["a b.xml", "a b.png", "a b", "a b  -1"])
def test_entries_of_lists(listed, tmp_path):
    write_files(tmp_path, {"Annotations/a b.xml": voc_xml(CAT), "JPEGImages/a b.png": None})
    write_files(tmp_path, {"ImageSets/Main/train.txt": f"\ufeff{listed}\n"})
    assert read(tmp_path).file_names == ("a b.png",)


def test_listed_images_without_xml_file_are_an_error(devkit):
    write_files(devkit, {"ImageSets/Main/train.txt": "a\nx\n../../secret\n"})
    assert message_of(devkit) == (
        "ImageSets/Main/train.txt: 2 of 3 entries have no XML file in Annotations, first ['x', '../../secret']; remove "
        "these lines or restore the files"
    )


# ---- objects


def test_difficult_objects_are_ignored_or_used(tmp_path):
    write_files(tmp_path, {"a.png": None, "a.xml": voc_xml(CAT, DOG, difficult=1)})
    assert read(tmp_path).is_crowd.tolist() == [True, True]
    assert read(tmp_path, difficult="object").is_crowd.tolist() == [False, False]


@pytest.mark.parametrize("names_file", ["classes.txt", "labels.txt"])
def test_class_names_can_be_given(names_file, tmp_path):
    write_files(tmp_path, {"a.png": None, "a.xml": voc_xml(CAT), names_file: "dog\ncat\n"})
    data = read(tmp_path)
    assert data.category_names == ("dog", "cat") and data.category_index.tolist() == [1]
    write_files(tmp_path, {names_file: "dog\n"})
    assert message_of(tmp_path) == (
        f"FOLDER: 1 object(s) have a class that is not in {names_file}; add the class to the file or correct its name "
        "(a.xml object 1 ('cat'))"
    )


def test_parts_polygons_and_blanks_are_ignored(tmp_path):
    xml = """<?xml version="1.0" encoding="ISO-8859-1"?>
    <annotation><object>
      <part><name>head</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>
      <name> caf\xe9 </name>
      <polygon><x1>9</x1><y1>9</y1></polygon>
      <bndbox><ymax> 7.5 </ymax><xmax>14</xmax><ymin>3.25</ymin><xmin>6</xmin></bndbox>
    </object></annotation>"""
    write_files(tmp_path, {"a.png": None, "a.xml": xml.strip().encode("latin-1")})
    data = read(tmp_path)
    assert data.category_names == ("caf\xe9",)
    assert data.boxes_xywh.tolist() == [[6, 3.25, 8, 4.25]]
    assert data.is_crowd.tolist() == [False]


@pytest.mark.parametrize("width", [0, -1, "x", "1e30", "nan", "", 40.5])
def test_missing_sizes_are_read_from_the_images(width, tmp_path):
    xml = voc_xml(CAT)
    given = f"<width>{WIDTH}</width>"
    assert given in xml
    write_files(tmp_path, {"a.png": None, "a.xml": xml.replace(given, f"<width>{width}</width>")})
    assert read(tmp_path).sizes.tolist() == [[0, 0]]
    assert read_dataset((source(tmp_path),)).sizes.tolist() == [[HEIGHT, WIDTH]]


def test_all_faults_are_reported_at_once(tmp_path):
    nan = voc_xml(("cat", float("nan"), 3, 14, 7), CAT, ("dog", 1, 2, "", 4))
    write_files(tmp_path, {"a.xml": nan, "b.xml": voc_xml(("", 1, 2, 3, 4)), "c.xml": "<html></html>"})
    assert message_of(tmp_path) == (
        "FOLDER: 3 problem(s)\n"
        "  2 object(s) have a <bndbox> that is not four finite numbers, expected xmin, ymin, xmax and ymax in pixels "
        "(a.xml object 1, class 'cat' (['nan', '3', '14', '7']); a.xml object 3, class 'dog' (['1', '2', '', '4']))\n"
        "  1 object(s) have no <name>; add the class name or remove the object (b.xml object 1)\n"
        "  1 XML file(s) are not Pascal VOC annotations, expected the root element <annotation> (c.xml (<html>))"
    )


def test_dataset_without_objects_is_an_error(tmp_path):
    write_files(tmp_path, {"a.png": None, "a.xml": voc_xml()})
    with pytest.raises(InputError, match=r"^data\.train: no objects in .*, so there are no classes to learn$"):
        read_dataset((source(tmp_path),), key="data.train")


def test_other_folders_are_an_error(tmp_path):
    assert message_of(write_files(tmp_path, {"a.png": None})) == (
        "FOLDER: is not a Pascal VOC dataset: expected a folder with XML files, for example in Annotations; "
        "to detect the format, set data.train.format=auto"
    )


# ---- hostile files


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "..\\secret.png", "a/../../secret.png"])
def test_file_names_stay_in_the_dataset(name, tmp_path):
    write_files(tmp_path, {"secret.png": None})
    folder = write_files(tmp_path / "set", {"a.xml": voc_xml(CAT, filename=name), "b.png": None})
    with pytest.raises(InputError):
        read_dataset((source(folder),))


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {one} "{f"&{other};" * 10}">' for one, other in zip("bcdefghij", "abcdefghi", strict=True)
)
DOCUMENT_TYPES = [
    LAUGHS + "]><annotation><filename>&j;</filename></annotation>",
    '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>',
    '<!DOCTYPE annotation SYSTEM "http://localhost/x.dtd"><annotation/>',
]


@pytest.mark.parametrize("xml", DOCUMENT_TYPES)
def test_document_types_and_therefore_entities_are_rejected(xml, tmp_path):
    write_files(tmp_path, {"a.xml": xml})
    assert "declares the document type" in message_of(tmp_path)
    assert ET.fromstring("<annotation><filename>&lt;</filename></annotation>")[0].text == "<"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no element found"),
        (b"<annotation>", "no element found"),
        (b"\0\1\2", "not well-formed"),
        (b"<annotation>&a;</annotation>", "undefined entity"),
        ('<?xml version="1.0" encoding="gbk"?><annotation>\u4e2d</annotation>'.encode("gbk"), "multi-byte encodings"),
        (b'<?xml version="1.0" encoding="none"?><annotation/>', "unknown encoding"),
    ],
)
def test_files_that_are_not_xml(content, problem, tmp_path):
    write_files(tmp_path, {"a.xml": content})
    message = message_of(tmp_path)
    assert message.startswith("FOLDER: 1 XML file(s) cannot be read; correct or restore them (a.xml: is not XML: ")
    assert problem in message


def test_large_and_deep_files(tmp_path, monkeypatch):
    write_files(
        tmp_path, {"a.png": None, "a.xml": "<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>"}
    )
    assert read(tmp_path).file_names == ("a.png",)
    monkeypatch.setattr(xml_file, "MAX_BYTES", 1000)
    assert message_of(tmp_path) == (
        "FOLDER: 1 XML file(s) cannot be read; correct or restore them "
        "(a.xml: cannot be read: it has more than 1000 bytes)"
    )


TOKENS = st.sampled_from(
    "<annotation> </annotation> <object> </object> <name>cat</name> <bndbox> </bndbox> <xmin>1</xmin> <ymin>1e9</ymin> "
    "<xmax>-2</xmax> <ymax>x</ymax> <filename>../a</filename> &#0; <!".split()
)


@given(
    xml=st.lists(TOKENS, max_size=12).map("".join).map(str.encode) | st.binary(max_size=40),
    listed=st.binary(max_size=9),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_generated_files_raise_only_input_errors(xml, listed, tmp_path):
    write_files(tmp_path, {"Annotations/a.xml": xml, "ImageSets/train.txt": listed, "images/a.png": None})
    for split in ("train", None):
        if split is None:
            (tmp_path / "ImageSets/train.txt").unlink()
        try:
            read_dataset((source(tmp_path, split=split),))
        except InputError as error:
            assert str(error)


# ---- real data


@needs_blood_cells
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_blood_cells_as_voc_and_as_coco_are_the_same_dataset(split):
    one = blood_cells(split)
    other = read_dataset((source(BLOOD_CELLS, split=split),), classes=("RBC", "WBC", "Platelets"))
    assert differences(one, other, ignore=()) == []
    assert len(one) == {"train": 205, "val": 87, "test": 72}[split]
    assert np.all(one.boxes_xywh == one.boxes_xywh.round())
