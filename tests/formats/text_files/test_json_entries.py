"""Entries read one by one equal those of the file parsed at once, wherever the pieces end."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinanet.errors import InputError
from retinanet.formats.text_files import json_entries
from retinanet.formats.text_files.json_entries import Entry, entries

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def expected(document: dict) -> list[Entry]:
    result = []
    for key, value in document.items():
        whole = [Entry(key, None, value)]
        is_list = isinstance(value, list) and value
        result += [Entry(key, position, item) for position, item in enumerate(value)] if is_list else whole
    return result


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    document=st.dictionaries(st.text(max_size=3), VALUES, max_size=4),
    indent=st.sampled_from([None, 1]),
    piece=st.integers(1, 40),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_entries_equal_those_of_the_whole_document(tmp_path, monkeypatch, document, indent, piece, encoding):
    monkeypatch.setattr(json_entries, "PIECE", piece)
    file = tmp_path / "a.json"
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    file.write_bytes(text.encode(encoding, "surrogatepass"))
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return  # an unpaired surrogate: not valid in a file
    assert list(entries(str(file))) == expected(json.loads(json.dumps(document)))


def test_nonstandard_constants_are_read_as_by_the_json_module(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"a": [Infinity, -Infinity], "b": 1}')
    assert list(entries(str(file))) == [("a", 0, float("inf")), ("a", 1, float("-inf")), ("b", None, 1)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]", "found '[', expected '{'"),
        ('{"a": [1 2]}', "found '2', expected ',' or ']'"),
        ('{"a": [1, x]}', "a[1] is damaged or incomplete"),
        ('{"a": [1, {"b": 2]}', "a[1] is damaged or incomplete"),
        ('{"a": [1', "a[0] is damaged or incomplete"),
        ('{"a": [1,', "a[1] is damaged or incomplete"),
        ('{"a": {"b"', "the value of 'a' is damaged or incomplete"),
        ('{"a": 1', "the value of 'a' is damaged or incomplete"),
        ('{"a": [1] ', "it is incomplete"),
        ("{} {}", "it continues after the end of its object"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": ["' + "x" * 5000 + '"]}', "a[0] has more than 3000 characters"),
    ],
)
def test_damaged_files_are_errors(tmp_path, monkeypatch, content, problem):
    monkeypatch.setattr(json_entries, "PIECE", 1000)
    monkeypatch.setattr(json_entries, "MAX_ENTRY", 3000 if "x" * 9 in content else 1_000_000)
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        list(entries(str(file)))
    assert str(caught.value).startswith(f"{file}: is not JSON: ") and problem in str(caught.value)
