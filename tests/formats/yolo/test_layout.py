import os

import pytest

from retinanet.formats.read import read_dataset
from tests.helpers.dataset_folders import HEIGHT, WIDTH, write_files
from tests.helpers.yolo_files import CAT, DOG, NAMES, message_of, one_image, read, yolo_source

# ---- layouts

LAYOUTS = {
    "Ultralytics": ("images/{}/", "labels/{}/", "train: images/train\nval: images/val\n"),
    "Ultralytics without entries": ("images/{}/", "labels/{}/", ""),
    "Roboflow": ("{}/images/", "{}/labels/", "train: ../train/images\nval: ../val/images\n"),
    "beside": ("{}/", "{}/", "train: train\nval: val\n"),
    "lists of folders": ("images/{}/", "labels/{}/", "train: [images/train]\nval:\n  - ./images/val\n"),
    "path": ("images/{}/", "labels/{}/", "path: .\ntrain: images/train\nval: images/val\ntest:\nnc: 2\n"),
}


@pytest.mark.parametrize("classes_txt", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_common_tools(layout, classes_txt, tmp_path):
    images, labels, entries = LAYOUTS[layout]
    contents = {"classes.txt": "cat\ndog\n"} if classes_txt else {"data.yaml": entries + NAMES}
    for split, names in (("train", ("b", "a", "sub/c")), ("val", ("d",))):
        for name in names:
            contents[f"{images.format(split)}{name}.png"] = None
    contents[f"{labels.format('train')}a.txt"] = CAT + DOG
    contents[f"{labels.format('train')}sub/c.txt"] = DOG
    contents[f"{labels.format('val')}d.txt"] = CAT
    write_files(tmp_path, contents)

    train, val = read(tmp_path), read(tmp_path, "val")
    assert train.file_names == ("a.png", "b.png", "sub/c.png")
    assert train.category_names == val.category_names == ("cat", "dog")
    assert train.image_index.tolist() == [0, 0, 2]
    assert train.category_index.tolist() == [0, 1, 1]
    assert train.is_relative and not train.sizes.any()
    assert val.file_names == ("d.png",) and val.category_index.tolist() == [0]
    assert read(tmp_path, "val", split="train").file_names == train.file_names

    data = read_dataset((yolo_source(tmp_path),))
    assert data.sizes.tolist() == [[HEIGHT, WIDTH]] * 3
    assert data.boxes_xywh.tolist() == [[6, 3, 8, 4], [18, 5, 4, 10], [18, 5, 4, 10]]
    assert data.image_ids == (1, 2, 3) and data.category_ids == (1, 2)


@pytest.mark.parametrize("names_file", ["classes.txt", "labels/classes.txt", "obj.names"])
def test_dataset_without_splits_is_read_whole(names_file, tmp_path):
    write_files(tmp_path, {names_file: "cat\r\ndog\r\n", "images/a.png": None, "labels/a.txt": CAT})
    assert read(tmp_path).category_names == ("cat", "dog")
    assert read(tmp_path, "val").file_names == ("a.png",)
    assert message_of(tmp_path, split="val") == (
        "FOLDER: has no splits, so data.train.split=val cannot be read; remove data.train.split to read all of it"
    )


def test_images_beside_labels(tmp_path):
    write_files(tmp_path, {"classes.txt": "cat\ndog", "a.png": None, "a.txt": CAT, "b.png": None})
    assert read(tmp_path).file_names == ("a.png", "b.png")
    assert read(tmp_path).image_index.tolist() == [0]


def test_split_folder_uses_the_class_names_above_it(tmp_path):
    write_files(tmp_path, {"data.yaml": NAMES, "train/images/a.png": None, "train/labels/a.txt": DOG})
    assert read(tmp_path / "train").category_index.tolist() == [1]


def test_list_of_images_keeps_its_order(tmp_path):
    write_files(
        tmp_path,
        {
            "data.yaml": NAMES + "train: train.txt\n",
            "train.txt": f"./images/b.png\n\nimages/a.png\r\n{tmp_path}/images/c.png",
            **dict.fromkeys(["images/a.png", "images/b.png", "images/c.png", "images/d.png"]),
            "labels/b.txt": CAT,
        },
    )
    assert read(tmp_path).file_names == ("b.png", "a.png", "c.png")


def test_images_can_be_elsewhere(tmp_path):
    write_files(tmp_path, {"set/data.yaml": NAMES, "set/labels/train/a.txt": CAT, "photos/a.png": None})
    data = read(tmp_path / "set", images=str(tmp_path / "photos"))
    assert data.image_folder == str(tmp_path / "photos") and data.category_index.tolist() == [0]


def test_data_yaml_itself_can_be_the_source(tmp_path):
    assert read(one_image(tmp_path, CAT) / "data.yaml").file_names == ("a.png",)


def test_relative_and_absolute_entries_can_be_mixed(tmp_path, monkeypatch):
    write_files(
        tmp_path, {"a/images/1.png": None, "a/labels/1.txt": CAT, "b/images/2.png": None, "b/labels/2.txt": DOG}
    )
    write_files(tmp_path, {"a/data.yaml": f"train: [images, {tmp_path}/b/images]\n{NAMES}"})
    monkeypatch.chdir(tmp_path)
    data = read_dataset((yolo_source("a"),))
    assert [os.path.relpath(path) for path in data.paths] == ["a/images/1.png", "b/images/2.png"]
    assert data.labels.tolist() == [0, 1]


@pytest.mark.parametrize("entry", ["/content/x/images", "../images", "../../x/images", ".\\images", "./images/"])
def test_entries_of_exports_are_read_as_folders_of_the_dataset(entry, tmp_path):
    folder = one_image(tmp_path, CAT, f"train: {entry}\n{NAMES}")
    assert read(folder).file_names == ("a.png",)
    assert read(folder).image_folder == str(tmp_path / "images")


def test_path_of_another_machine_is_replaced_with_the_folder_of_data_yaml(tmp_path):
    folder = one_image(tmp_path, CAT, f"path: /content/datasets/x\ntrain: images\n{NAMES}")
    assert read(folder).file_names == ("a.png",)


def test_splits_have_aliases(tmp_path):
    write_files(tmp_path, {"data.yaml": NAMES, "valid/images/a.png": None, "valid/labels/a.txt": CAT})
    write_files(tmp_path, {"test/images/b.png": None, "test/labels/b.txt": CAT})
    assert read(tmp_path, "val").file_names == ("a.png",)
    assert message_of(tmp_path) == "FOLDER: has no split train, only valid, test; set data.train.split to one of them"
    assert read(tmp_path, split="test").file_names == ("b.png",)


# ---- class names


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        ("names: [cat, cat]", "duplicate class names ['cat']; names must be unique"),
        ("names: [cat, '']", "class 1 has no name; every class number needs a name"),
        ("names: []", "names is [], expected a list of class names, or a mapping from numbers"),
        ("names: cat", "names is cat, expected a list of class names, or a mapping from numbers"),
        ("names: [[cat]]", "names is [['cat']], expected a list of class names, or a mapping from numbers"),
        ("train: images", "names is None, expected a list of class names, or a mapping from numbers"),
        ("names: {0: cat, 2: dog}", "names has the numbers ['0', '2'], expected 0 to 1"),
        ("names: [cat]\nnc: 80", "nc is 80, but names has 1; correct one of them"),
        ("names: [cat]\npath: [a]", "path is ['a'], expected the folder of the dataset"),
        ("names: [cat]\ntrain: {a: b}", "train is {'a': 'b'}, expected a folder, a list of folders, or a .txt file"),
        ("names: [cat]\nnames: [dog]", "cannot be read as YAML: line 2, column 1: duplicate key 'names'"),
    ],
)
def test_faults_of_data_yaml(yaml, problem, tmp_path):
    assert message_of(one_image(tmp_path, CAT, yaml)).startswith(f"data.yaml: {problem}")


def test_dataset_without_class_names_is_an_error(tmp_path):
    write_files(tmp_path, {"images/a.png": None, "labels/a.txt": CAT})
    assert message_of(tmp_path) == (
        "FOLDER: has label files in YOLO format, but no class names; add data.yaml with names, or classes.txt with one "
        "name per line"
    )


@pytest.mark.parametrize(
    "yaml", ["names: [no, 1.0]\nnc: 2", "names:\n  1: 1.0\n  0: no", 'names: {"0": "no", "1": 1.0}']
)
def test_names_are_text_as_written(yaml, tmp_path):
    assert read(one_image(tmp_path, DOG, yaml)).category_names == ("no", "1.0")


# ---- hostile files


def test_entries_stay_in_the_dataset(tmp_path):
    write_files(tmp_path, {"secret/images/a.png": None, "secret/labels/a.txt": CAT})
    folder = write_files(tmp_path / "set", {"data.yaml": NAMES + "train: ../secret/images\n"})
    assert message_of(folder) == (
        "data.yaml: train: ../secret/images is outside FOLDER; use paths inside the dataset, or set path"
    )
    write_files(folder, {"data.yaml": NAMES + "train: images/../../secret\n"})
    assert "is outside" in message_of(folder)


@pytest.mark.parametrize("line", ["../secret/images/a.png", "/etc/passwd.png", "images/../../secret/images/a.png"])
def test_listed_images_stay_in_the_dataset(line, tmp_path):
    write_files(tmp_path, {"secret/images/a.png": None, "secret/labels/a.txt": CAT})
    folder = write_files(tmp_path / "set", {"data.yaml": NAMES + "train: train.txt\n", "train.txt": f"\n{line}\n"})
    assert message_of(folder) == f"train.txt:2: {line!r} is outside FOLDER; list images inside the dataset"


def test_scripts_and_aliases_in_data_yaml_have_no_effect(tmp_path):
    folder = one_image(tmp_path, CAT, f"{NAMES}download: |\n  import os\n  os.mkdir('{tmp_path}/made')\n")
    assert read(folder).file_names == ("a.png",) and not (tmp_path / "made").exists()
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nnames: *b\n"
    assert "the alias *a is not supported" in message_of(one_image(tmp_path, CAT, bomb))
    assert "tag" in message_of(one_image(tmp_path, CAT, "names: !!python/object/apply:os.getcwd []"))
