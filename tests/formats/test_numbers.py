"""Numbers in annotation files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinanet.formats.numbers import MAX_NUMBER, exact_text, is_number, to_number


@given(st.floats(min_value=-MAX_NUMBER, max_value=MAX_NUMBER, exclude_min=True, exclude_max=True))
def test_written_numbers_are_read_exactly(value):
    assert to_number(exact_text(value)) == value


@pytest.mark.parametrize(("value", "text"), [(3.0, "3"), (-2.0, "-2"), (0.5, "0.5"), (1e-7, "1e-07")])
def test_whole_numbers_have_no_decimal_point(value, text):
    assert exact_text(value) == text


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "1e9", "-1e300", "1_000", "1,5", "0x10", "1 2"])
def test_other_texts_are_not_numbers(text):
    assert to_number(text) is None


@pytest.mark.parametrize("text", ["true", '"1"', "null", "[1]", "NaN", "Infinity", "1e9", "-1e400", "9" * 400])
def test_other_json_values_are_not_numbers(text):
    assert not is_number(json.loads(text))


def test_json_numbers_of_plausible_size_are_numbers():
    assert all(map(is_number, (0, -3, 2.5, 999_999_999)))
