"""The fast COCO reader agrees with the tolerant one and reads every correct file."""

import gzip
import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.coco import stream
from retinanet.formats.coco.reader import read_coco
from retinanet.formats.coco.stream import read_stream
from retinanet.formats.coco.tolerant import read_tolerantly
from tests.helpers.coco_files import box, document, image


def equal(first, second) -> bool:
    """Whether two `Annotations` are the same in every field."""
    for field in fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or a.shape != b.shape or not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                return False
        elif a != b or [type(value) for value in np.atleast_1d(a)] != [type(value) for value in np.atleast_1d(b)]:
            return False
    return True


@pytest.fixture
def written(tmp_path):
    """Return a function that writes an annotation file and returns its source."""

    def write(content):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "some.json").write_bytes(data)
        return DataSource(annotations=str(tmp_path / "some.json"), images=str(tmp_path))

    return write


def many(count):
    return document(
        [image(number, license=1) for number in range(9)],
        [box(n, n % 9, [n, 0.5, 5, 1e-3 * n], 3 + n % 3 * 2, segmentation=[[0, 1, 2] * n]) for n in range(count)],
    )


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("order", [("images", "annotations", "categories"), ("categories", "annotations", "images")])
def test_file_is_read_in_pieces(written, monkeypatch, indent, order):
    content = {"info": {"year": 2026, "a": [{"b": "],[}{"}]}, **{part: many(60)[part] for part in order}, "x": None}
    some = written(json.dumps(content, indent=indent).encode())
    whole = read_stream(some)
    assert len(whole.boxes_xywh) == 60 and equal(whole, read_tolerantly(some))
    monkeypatch.setattr(stream, "MAX_VALUE", 200)
    for piece in (100, 333, 1024):
        monkeypatch.setattr(stream, "PIECE", piece)
        assert equal(read_stream(some), whole)


def test_gzip_and_byte_order_mark_are_read(written):
    plain = read_stream(written(many(5)))
    data = json.dumps(many(5)).encode()
    for content in (gzip.compress(data), b"\xef\xbb\xbf" + data):
        assert equal(read_stream(written(content)), plain)


DECLINED = {
    "two lists": b'{"images": [], "images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
    "more after the end": json.dumps(many(2)).encode() + b" {}",
    "cut": json.dumps(many(20)).encode()[:-1],
    "no categories": document([image(1)], [], []),
    "text with an end of a list": document([image(1, note='}], "annotations": [')]),
    "float id": document([image(1.0)]),
    "unknown size": document([image(1, width=None)]),
    "repeated ids": document([image(1)], [box(1, 1, [0, 0, 5, 5])] * 2),
    "large id": document([image(1)], [box(2**64, 1, [0, 0, 5, 5])]),
    "unknown image": document([image(1)], [box(1, 2, [0, 0, 5, 5])]),
    "unknown category": document([image(1)], [box(1, 1, [0, 0, 5, 5], 4)]),
    "NaN": document([image(1)], [box(1, 1, [0, 0, float("nan"), 5])]),
    "large": document([image(1)], [box(1, 1, [0, 0, 1e10, 5])]),
    "crowd 2": document([image(1)], [box(1, 1, [0, 0, 5, 5], iscrowd=2)]),
    "blanks": document([image(1)], [], [{"id": 1, "name": "cat "}]),
    "list": b"[]",
    "empty": b"",
}


@pytest.mark.parametrize("name", DECLINED)
def test_everything_else_is_left_to_the_tolerant_reader(written, name):
    assert read_stream(written(DECLINED[name])) is None


def test_entry_beyond_the_buffer_is_left_to_the_tolerant_reader(written, monkeypatch):
    some = written(many(60))
    monkeypatch.setattr(stream, "MAX_VALUE", 200)
    monkeypatch.setattr(stream, "PIECE", 100)
    monkeypatch.setattr(stream, "MAX_BUFFER", 400)
    assert read_stream(some) is None
    assert len(read_coco(some).boxes_xywh) == 60


# ---- generated documents

TEXTS = st.text(max_size=6) | st.sampled_from(["},{", "}],", '"}', "]}", "é", "1", " a"])
EXTRA = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
IDS = st.integers(-5, 5) | st.integers() | TEXTS
NUMBERS = st.floats(-1e6, 1e6) | st.integers(-1000, 1000)


@st.composite
def documents(draw):
    """Draw COCO documents, most of them correct, with additional fields and in any order."""
    images = [
        {
            "id": image_id,
            "file_name": draw(TEXTS) + "x",
            "height": draw(st.integers(1, 9)),
            "width": 9,
            "x": draw(EXTRA),
        }
        for image_id in draw(st.lists(IDS, max_size=4, unique_by=lambda value: (type(value), value)))
    ]
    category_ids = draw(st.lists(st.integers(-3, 2**40), min_size=1, max_size=3, unique=True))
    categories = [{"id": n, "name": draw(TEXTS) + f"{n}", "supercategory": draw(TEXTS)} for n in category_ids]
    annotations = [
        {
            "id": number,
            "image_id": draw(st.sampled_from([image["id"] for image in images])),
            "category_id": draw(st.sampled_from(category_ids)),
            "bbox": draw(st.lists(NUMBERS, min_size=4, max_size=4)),
            **draw(st.fixed_dictionaries({}, optional={"area": st.none() | NUMBERS, "x": EXTRA})),
            **draw(st.fixed_dictionaries({}, optional={"iscrowd": st.sampled_from([None, 0, 1, True, False])})),
        }
        for number in (draw(st.lists(st.integers(-(2**63), 2**63), max_size=5, unique=True)) if images else [])
    ]
    parts = [("images", images), ("annotations", annotations), ("categories", categories), ("info", draw(EXTRA))]
    return dict(draw(st.permutations(parts)))


@given(content=documents(), indent=st.sampled_from([None, 1]), piece=st.sampled_from([50, 300]))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_both_readers_agree_wherever_both_can_read(written, monkeypatch, content, indent, piece):
    monkeypatch.setattr(stream, "PIECE", piece)
    monkeypatch.setattr(stream, "MAX_VALUE", 250)
    some = written(json.dumps(content, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    fast = read_stream(some)
    try:
        tolerant = read_tolerantly(some)
    except InputError:
        assert fast is None
    else:
        assert fast is None or equal(fast, tolerant)
        assert fast is None or fast.findings == ()
