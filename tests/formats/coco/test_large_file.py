"""Large files that differ from the format are read entry by entry, with the same result as when parsed at once."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.coco import large_file
from retinanet.formats.coco.tolerant import read_tolerantly
from retinanet.formats.text_files import json_entries
from tests.helpers.coco_files import box, document, image


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(large_file, "MAX_WHOLE", 10)
    monkeypatch.setattr(json_entries, "PIECE", 7)


def irregular():
    boxes = [box(number, 1 + number % 2, [1, 2, 3, number], area=str(number)) for number in (1, 2, 2, 5)]
    for item in boxes:
        item["attributes"] = [{"a": 1}, {"b": [{}]}]  # contains what looks like the end of the list of annotations
    boxes[0]["id"] = None
    del boxes[1]["bbox"]
    boxes[1]["segmentation"] = [[1, 2, 5, 2, 5, 9.5]]
    return document([image(1.0, height=None), image(2)], boxes)


def assert_equal(first: Annotations, second: Annotations):
    for field in dataclasses.fields(Annotations):
        np.testing.assert_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)


def test_result_equals_that_of_the_file_parsed_at_once(source, everything_is_large, monkeypatch):
    some = source(json.dumps(irregular()).encode())
    by_entry = read_tolerantly(some)
    monkeypatch.setattr(large_file, "MAX_WHOLE", 10**6)
    whole = read_tolerantly(some)
    assert len(whole.findings) == 6
    assert_equal(by_entry, whole)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": "5", "shapes": [], "imagePath": "a.jpg"}, "labelme format"),
        ({"a": [1, 2, 3, 4]}, "expected lists images, annotations, categories; found 'a'"),
        (document([image(1)], [box(1, 7, [1, 2, 3, 4])]), "annotation(s) with an invalid image_id"),
        (document([image(1)], [box(1, 1, [1, 2, 3, 4])], []), "expected at least one category"),
    ],
)
def test_message_equals_that_of_the_file_parsed_at_once(source, everything_is_large, monkeypatch, content, message):
    some = source(json.dumps(content).encode())
    with pytest.raises(InputError, match="(?s)" + message.replace("(", r"\(").replace(")", r"\)")) as by_entry:
        read_tolerantly(some)
    monkeypatch.setattr(large_file, "MAX_WHOLE", 10**6)
    with pytest.raises(InputError) as whole:
        read_tolerantly(some)
    assert str(by_entry.value) == str(whole.value)


def test_number_of_entries_is_limited(source, everything_is_large, monkeypatch):
    monkeypatch.setitem(large_file.MAX_ENTRIES, "annotations", 3)
    with pytest.raises(InputError, match="has more than 3 annotations"):
        read_tolerantly(source(json.dumps(irregular()).encode()))
    monkeypatch.setitem(large_file.MAX_ENTRIES, "annotations", 4)
    assert len(read_tolerantly(source(json.dumps(irregular()).encode())).image_index) == 4


HOSTILE = {  # repeated content for which parsers need the most memory per byte
    "nested lists": b"[" * 400 + b"]" * 400 + b",",
    "empty objects": b"{},",
    "images": b'{"id":%d,"file_name":"x"},',
    "annotations": b'{"image_id":1,"category_id":1,"bbox":[0,0,1,1]},',
}
READ = r"""
import re, sys
from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.coco.reader import read_coco
try:
    read_coco(DataSource(annotations=sys.argv[1], images="images"))
except InputError:
    pass
print(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("nested lists", large_file.MAX_WHOLE - 200),
        ("empty objects", large_file.MAX_WHOLE - 200),
        ("images", large_file.MAX_WHOLE * 5 // 4),
        ("annotations", large_file.MAX_WHOLE * 5 // 4),
    ],
)
def test_memory_stays_below_1_gib(tmp_path, kind, size):
    unit, file = HOSTILE[kind], tmp_path / "hostile.json"
    part = "annotations" if kind == "annotations" else "images"
    with open(file, "wb") as opened:
        opened.write(b'{"%s":[' % part.encode())
        count = size // len(unit)
        for number in range(count):
            opened.write(unit % number if b"%d" in unit else unit)
        opened.write(b'{"id":1,"file_name":"y"}],')
        opened.write(b'"images":[{"id":1,"file_name":"y"}],' if part == "annotations" else b'"annotations":[],')
        opened.write(b'"categories":[{"id":1,"name":"\xf0\x9f\x90\x88"}]}')
    done = subprocess.run([sys.executable, "-c", READ, str(file)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    print("PEAK", kind, size, done.stdout)
    assert int(done.stdout) < 1 << 20, f"{done.stdout} KiB"
