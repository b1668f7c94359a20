"""Reading any JSON file results in a dataset or an InputError."""

import copy
import gzip
import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.read import read_dataset
from tests.helpers.coco_files import CATEGORIES, box, document, image

VALID = document(
    [image(1), image(2, height=None), image("a")],
    [
        box(1, 1, [0, 0, 5, 5], area=3, iscrowd=0),
        box(2, 2, [1, 1, 2, 2], segmentation=[[1, 1, 3, 1, 3, 3]]),
        box(3, "a", None, segmentation={"size": [10, 20], "counts": [5, 10, 185]}),
    ],
    CATEGORIES,
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 2**63, -(2**63), 2**64, 10**400, 1e308, -0.0, "1", "1.0", "a", "", " "])
    | st.floats()
    | st.text(st.characters(codec=None), max_size=5)  # with unpaired surrogates
)
KEYS = st.sampled_from(
    ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "counts", "size", "file_name",
     "height", "width", "name", "images", "annotations", "categories", "shapes", "supercategory", "caption",
     "segments_info", ""]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)
LISTS = st.lists(st.dictionaries(KEYS, VALUES, max_size=7) | VALUES, max_size=3)
OPTIONS = {"max_examples": 80, "deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture
def read(tmp_path, caplog):
    """Return a function that reads a dataset, given its annotation file; the image files exist."""
    caplog.set_level(logging.CRITICAL, "retinanet")
    for name in ("1.png", "2.png", "a.png"):
        Image.new("RGB", (20, 10)).save(tmp_path / name)
    file = tmp_path / "some.json"

    def run(data):
        file.write_bytes(data)
        try:
            return read_dataset((DataSource(annotations=str(file), images=str(tmp_path)),))
        except InputError as error:
            assert str(error).encode()  # can be printed
            return None

    return run


def places_in(value, path=()):
    """Paths of all values inside a value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places_in(inner, (*path, key))


PLACES = [path for path in places_in(VALID) if path]


def mutated(changes):
    content = copy.deepcopy(VALID)
    for path, value in changes:
        parent = content
        try:
            for key in path[:-1]:
                parent = parent[key]
            if value is KEYS:
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
        except (KeyError, IndexError, TypeError):  # removed by an earlier change
            pass
    return content


def test_unchanged_document_is_read(read):
    assert len(read(json.dumps(VALID).encode()).labels) == 3


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES | st.just(KEYS)), min_size=1, max_size=3))
@settings(**OPTIONS)
def test_changed_documents(read, changes):
    read(json.dumps(mutated(changes)).encode())


@given(content=st.fixed_dictionaries({part: LISTS for part in ("images", "annotations", "categories")}) | VALUES)
@settings(**OPTIONS)
def test_generated_documents(read, content):
    read(json.dumps(content).encode())


@given(position=st.integers(0, 700), data=st.binary(max_size=4), length=st.integers(0, 5), compress=st.booleans())
@settings(**OPTIONS)
def test_damaged_files(read, position, data, length, compress):
    content = json.dumps(VALID).encode()
    content = gzip.compress(content, mtime=0) if compress else content
    read(content[:position] + data + content[position + length :])
    read(content[:position])
