import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.detect import detect, own_data, resolve
from retinanet.formats.read import read_annotations, read_dataset
from tests.helpers.coco_files import box, document, image
from tests.helpers.dataset_folders import voc_xml, write_files

COCO = json.dumps(document([image(1)], [box(1, 1, [0, 0, 5, 5])]))
LABELME = json.dumps({"version": "5", "flags": {}, "shapes": [], "imagePath": "1.png", "imageData": None})
LVIS = json.dumps({"images": [{"id": 1, "neg_category_ids": []}], "annotations": [], "categories": []})
YOLO_LABEL, VOC = "0 0.5 0.5 0.1 0.1", voc_xml(("cat", 1, 2, 3, 4))
CSV = "image_path,xmin,ymin,xmax,ymax,label\n1.png,0,0,5,5,cat\n"
OPEN_IMAGES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction\n"

# Files in a folder; the format and splits that are detected; the description.
FOLDERS = {
    "COCO as distributed": (
        {
            "annotations/instances_train2017.json": COCO,
            "annotations/instances_val2017.json": COCO,
            "annotations/captions_val2017.json": json.dumps({"images": [], "annotations": []}),
            "annotations/person_keypoints_train2017.json": COCO,
        },
        ("coco", ["train2017", "val2017"]),
        "COCO, annotations/instances_train2017.json, annotations/instances_val2017.json",
    ),
    "COCO from Roboflow": (
        {f"{split}/_annotations.coco.json": COCO for split in ("train", "valid", "test")},
        ("coco", ["train", "valid", "test"]),
        "COCO, train/_annotations.coco.json, valid/_annotations.coco.json, test/_annotations.coco.json",
    ),
    "COCO beside images": ({"result.json": COCO, "1.png": None, "notes.json": "{}"}, ("coco", []), "COCO, result.json"),
    "COCO, a file per split": (
        {"val.json": COCO, "train.json": COCO, "all.json": COCO},
        ("coco", ["train", "val"]),
        "COCO, train.json, val.json",
    ),
    "LVIS": ({"lvis_v1_train.json": LVIS, "lvis_v1_val.json": LVIS}, ("lvis", ["train", "val"]),
             "LVIS, lvis_v1_train.json, lvis_v1_val.json"),
    "YOLO": (
        {"data.yaml": "train: images/a\nval: images/b\nnames: [x, y, z]", "images/a/1.png": None},
        ("yolo", ["train", "val"]),
        "YOLO, 3 classes from data.yaml",
    ),
    "YOLO under another name": (
        {"cells.yaml": "names: [x]\ntrain: images", "other.yaml": "a: b"}, ("yolo", ["train"]),
        "YOLO, 1 class from cells.yaml",
    ),
    "YOLO from Label Studio": (
        {"classes.txt": "x\n", "images/1.png": None, "labels/1.txt": YOLO_LABEL, "notes.json": "{}"},
        ("yolo", []),
        "YOLO, 1 class from classes.txt",
    ),
    "Pascal VOC": (
        {"Annotations/1.xml": VOC, "ImageSets/Main/val.txt": "1", "ImageSets/Main/train.txt": "1"},
        ("voc", ["train", "val"]),
        "Pascal VOC, XML files in Annotations",
    ),
    "Pascal VOC beside images": ({"1.xml": VOC, "1.png": None}, ("voc", []), "Pascal VOC, XML files"),
    "Pascal VOC from Roboflow": ({"train/1.xml": VOC, "valid/2.xml": VOC}, ("voc", ["train", "valid"]),
                                 "Pascal VOC, XML files"),
    "labelme": ({"1.json": LABELME, "1.png": None}, ("labelme", []), "labelme, JSON files beside images"),
    "labelme, a folder per split": (
        {"train/1.json": LABELME, "dev/2.json": LABELME}, ("labelme", ["train", "dev"]),
        "labelme, JSON files beside images",
    ),
    "CSV": ({"boxes.csv": CSV, "results.csv": "epoch,loss\n1,2\n"}, ("csv", []), "CSV, boxes.csv"),
    "CSV without a header": ({"train.csv": "a.png,1,2,3,4,cat\n", "val.csv": "1.png,,,,,\n", "classes.csv": "cat,0\n"},
                             ("csv", ["train", "val"]), "CSV, train.csv, val.csv"),
    "CSV with semicolons": ({"boxes.csv": CSV.replace(",", ";")}, ("csv", []), "CSV, boxes.csv"),
    "Open Images": (
        {"train-annotations-bbox.csv": OPEN_IMAGES, "validation-annotations-bbox.csv": OPEN_IMAGES,
         "class-descriptions-boxable.csv": "/m/01g317,Person\n"},
        ("open_images", ["train", "validation"]),
        "Open Images, train-annotations-bbox.csv, validation-annotations-bbox.csv",
    ),
}  # fmt: skip


def problem(path, **options) -> str:
    with pytest.raises(InputError) as caught:
        detect(str(path), **options)
    return str(caught.value).replace(f"{path}/", "").replace(str(path), "PATH")


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_common_tools(name, tmp_path):
    contents, (kind, splits), description = FOLDERS[name]
    found = detect(str(write_files(tmp_path, contents)))
    assert (found.format, found.splits, found.description) == (kind, splits, description)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.json", COCO, "coco"),
        ("a.json", LABELME, "coco"),  # its reader reports the actual format
        ("a.json", "[1]", "coco"),
        ("a", "\ufeff" + COCO, "coco"),
        ("lvis_v1_val.json", LVIS, "lvis"),
        ("data.yaml", "names: [x]", "yolo"),
        ("a.csv", CSV, "csv"),
        ("a.txt", "1.png,1,2,3,4,cat", "csv"),
        ("a.csv", OPEN_IMAGES, "open_images"),
    ],
)
def test_files(name, content, kind, tmp_path):
    found = detect(str(write_files(tmp_path, {name: content}) / name))
    assert (found.format, found.splits) == (kind, [])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", b"PK\x03\x04", "is a zip archive; unpack it and set data.val to the folder"),
        ("a.json", b"PK\x03\x04", "is a zip archive; unpack it and set data.val to the folder"),
        ("a.xml", VOC, "is the annotation of one image in Pascal VOC format; set data.val to its folder"),
        ("a.txt", YOLO_LABEL, "is not an annotation file; expected COCO (.json), YOLO (data.yaml), CSV, or a dataset "
         "folder"),
        ("a", b"", "is not an annotation file; expected COCO (.json), YOLO (data.yaml), CSV, or a dataset folder"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(name, content, message, tmp_path):
    write_files(tmp_path, {name: content})
    assert problem(tmp_path / name, key="data.val") == f"PATH: {message}"


def test_ambiguous_folder_names_the_candidates(tmp_path):
    write_files(tmp_path, {"Annotations/1.xml": VOC, "instances_train.json": COCO, "1.png": None, "1.txt": YOLO_LABEL})
    assert problem(tmp_path) == (
        "PATH: the format is ambiguous; it could be COCO, instances_train.json or Pascal VOC, XML files in Annotations "
        "or PATH: has label files in YOLO format, but no class names; add data.yaml with names, or classes.txt with "
        "one name per line. Set data.train.format to one of coco, voc"
    )
    source = DataSource(annotations=str(tmp_path), format="voc", images=str(tmp_path))
    assert read_annotations(source, "train").category_names == ("cat",)


def test_several_files_without_a_split_are_ambiguous(tmp_path):
    write_files(tmp_path, {"a.json": COCO, "b.json": COCO})
    expected = (
        "PATH: has several COCO files, ['a.json', 'b.json'], whose names do not identify their splits; set "
        "annotations to one of them"
    )
    assert problem(tmp_path) == expected
    write_files(tmp_path, {"train_1.json": COCO, "train_2.json": COCO})
    assert "['train_1.json', 'train_2.json']" in problem(tmp_path)


def test_empty_folder_and_missing_path(tmp_path):
    assert problem(tmp_path).startswith("PATH: no annotations found. Expected COCO (annotations/*.json")
    assert problem(tmp_path / "gone") == (
        "PATH: does not exist; set data.train to an annotation file or a dataset folder"
    )


# ---- splits


def resolved(folder, part, **fields):
    source, description = resolve(DataSource(annotations=str(folder), **fields), part)
    return source.annotations.removeprefix(f"{folder}/"), source.format, source.split, description


def test_each_part_reads_its_split(tmp_path):
    write_files(tmp_path, FOLDERS["COCO as distributed"][0])
    names = {split: f"annotations/instances_{split}2017.json" for split in ("train", "val")}
    assert resolved(tmp_path, "train") == (names["train"], "coco", "train2017", f"COCO, {names['train']}")
    assert resolved(tmp_path, "val", format="coco") == (names["val"], "coco", "val2017", f"COCO, {names['val']}")
    assert resolved(tmp_path, "val", split="train")[0] == names["train"]
    assert resolved(tmp_path / names["val"], "train") == (
        str(tmp_path / names["val"]), "coco", None, "COCO, instances_val2017.json",
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        resolve(DataSource(annotations=str(tmp_path), split="test"), "val")
    assert str(caught.value) == (
        f"{tmp_path}: has no split test, only train2017, val2017; set data.val.split to one of them"
    )


def test_split_with_several_candidates_is_an_error(tmp_path):
    write_files(
        tmp_path, {f"annotations/instances_{name}.json": COCO for name in ("train2014", "train2017", "val2017")}
    )
    with pytest.raises(InputError) as caught:
        resolve(DataSource(annotations=str(tmp_path)), "train")
    assert str(caught.value) == (
        f"{tmp_path}: several splits match train; set data.train.split to one of train2014, train2017"
    )
    assert resolved(tmp_path, "train", split="train2014")[2] == "train2014"


def test_log_line_describes_the_source(tmp_path, caplog):
    caplog.set_level("INFO")
    write_files(tmp_path, {"data.yaml": "names: [x, y]\ntrain: t\nvalid: v", "t/1.png": None, "t/1.txt": YOLO_LABEL})
    read_dataset((DataSource(annotations=str(tmp_path)),))
    assert f"{tmp_path}: YOLO, 2 classes from data.yaml, split train, 1 image" in caplog.messages


def test_own_data_has_the_splits_of_the_folder(tmp_path):
    write_files(tmp_path / "coco", FOLDERS["COCO from Roboflow"][0])
    data = own_data(str(tmp_path / "coco"))
    files = [f"{tmp_path}/coco/{split}/_annotations.coco.json" for split in ("train", "valid")]
    assert data.train == DataSource(annotations=files[0], format="coco", split="train")
    assert data.val == DataSource(annotations=files[1], format="coco", split="valid")
    write_files(tmp_path / "yolo", FOLDERS["YOLO"][0])
    data = own_data(str(tmp_path / "yolo"))
    assert data.train == DataSource(annotations=f"{tmp_path}/yolo", format="yolo", split="train")
    assert data.val == DataSource(annotations=f"{tmp_path}/yolo", format="yolo", split="val")
    assert data.description == "YOLO, 3 classes from data.yaml"


def test_own_data_without_a_validation_split(tmp_path):
    write_files(tmp_path / "a", FOLDERS["Pascal VOC beside images"][0])
    data = own_data(str(tmp_path / "a"))
    assert data.train == DataSource(annotations=f"{tmp_path}/a", format="voc") and data.val is None
    write_files(tmp_path / "b", {f"{split}/_annotations.coco.json": COCO for split in ("train", "test")})
    assert own_data(str(tmp_path / "b")).val is None, "a test split is never used for validation"
    write_files(tmp_path / "c", {"valid/_annotations.coco.json": COCO})
    with pytest.raises(InputError, match=r"has no split train, only valid; set data\.train\.split to one"):
        own_data(str(tmp_path / "c"))


# ---- the folder of the images


@pytest.mark.parametrize(
    ("annotations", "split", "images"),
    [
        ("a.json", None, "1.png"),
        ("a.json", None, "images/1.png"),
        ("a.json", None, "a/1.png"),
        ("train.json", None, "train/1.png"),
        ("annotations/instances_val2017.json", "val2017", "val2017/1.png"),
        ("annotations/instances_val2017.json", "val2017", "images/val2017/1.png"),
        ("annotations/instances_val.json", "val", "images/1.png"),
        ("annotations/instances_val.json", "val", "val/1.png"),
        ("labels/a.json", None, "JPEGImages/1.png"),
        ("val/_annotations.coco.json", "val", "val/1.png"),
    ],
)
def test_images_are_found_from_the_annotations(annotations, split, images, tmp_path):
    write_files(tmp_path, {annotations: COCO, images: None, "images/other.png": None, "train/other.png": None})
    source = DataSource(annotations=str(tmp_path / annotations), split=split)
    assert read_dataset((source,)).paths == (str(tmp_path / images),)


def test_folder_with_most_of_the_images_is_chosen(tmp_path):
    content = json.dumps(document([image(number) for number in range(1, 6)], [box(1, 1, [0, 0, 5, 5])]))
    write_files(
        tmp_path, {"train.json": content, "1.png": None} | {f"train/{number}.png": None for number in range(1, 6)}
    )
    assert read_annotations(DataSource(annotations=str(tmp_path / "train.json")), "train").image_folder == str(
        tmp_path / "train"
    )


def test_message_lists_the_folders_that_were_searched(tmp_path):
    write_files(tmp_path, {"set/a.json": COCO, "set/images/2.png": None})
    with pytest.raises(InputError) as caught:
        read_annotations(DataSource(annotations=str(tmp_path / "set/a.json")), "val")
    assert str(caught.value) == (
        f"{tmp_path}/set/a.json: its images were not found: none of ['1.png'] is in {tmp_path}/set, "
        f"{tmp_path}/set/images, {tmp_path}; set data.val.images to the folder of the images"
    )


# ---- generated content

NAMES = "a.json train.json annotations/a.json data.yaml a.csv a.txt 1.xml classes.txt train/1.txt".split()
CONTENTS = st.sampled_from([COCO, LABELME, LVIS, YOLO_LABEL, VOC, CSV, OPEN_IMAGES, "names: [x]", "", "{"]).map(
    str.encode
)


@given(files=st.dictionaries(st.sampled_from(NAMES), CONTENTS | st.binary(max_size=30), max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_generated_folders_are_detected_or_refused(files, tmp_path_factory):
    folder = write_files(tmp_path_factory.mktemp("generated"), files)
    for path in (folder, *(folder / name for name in files)):
        try:
            assert detect(str(path)).description
        except InputError as error:
            assert str(error)
