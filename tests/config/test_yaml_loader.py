import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.config import (
    SGDConfig,
)
from retinanet.config.load import (
    config_from_values,
    load_config,
    parse_override,
)
from retinanet.errors import InputError
from tests.helpers.config_errors import error_message

TRAIN = "train: {epochs: 1}\n"


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1E-3", 1e-3), ("1e+2", 100), ("5e0", 5), (".5", 0.5), ("2.", 2), ("3", 3)]
)
def test_numbers_are_read_in_every_notation(write, text, value):
    path = write(f"train: {{epochs: 1, optimizer: {{type: sgd, lr: {text}}}}}")
    assert load_config(path).train.optimizer == SGDConfig(lr=value)
    assert load_config(path, [f"train.epochs={text}"]).train.epochs == value


@settings(deadline=None)
@given(st.floats(min_value=1e-300, max_value=1e300))
def test_any_number_printed_by_python_is_read_back(number):
    assert parse_override(f"a={number!r}") == {"a": number}


@pytest.mark.parametrize(
    "text", ["12:30", "2024-01-01", "017", "0x10", "1_000", "1e", "e5", "1.2.3", "+", "--", "=", "<<"]
)
def test_other_scalars_stay_text(text):
    assert parse_override(f"a={text}") == {"a": text}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {epochs: 1, epochs: 2}", "cannot be read as YAML: line 1, column 20: duplicate key 'epochs'"),
        (TRAIN + "train: {steps: 1}", "cannot be read as YAML: line 2, column 1: duplicate key 'train'"),
        (TRAIN + "1: 2", "cannot be read as YAML: line 2, column 1: the key 1 is not text"),
        (TRAIN + "[a]: 2", "cannot be read as YAML: line 2, column 1: the key ['a'] is not text"),
        ("train: {epochs: 1", "cannot be read as YAML: line 1, column 18: expected ',' or '}'"),
        (TRAIN + "---\n" + TRAIN, "cannot be read as YAML: line 2, column 1: but found another document"),
        ("- a\n- b", "found list at the top level, expected a mapping such as train: ..."),
        ("hello", "found text at the top level, expected a mapping such as train: ..."),
        ("3", "found whole number at the top level, expected a mapping such as train: ..."),
        (b"train: \xe9", "is not UTF-8 text: 'utf-8' codec can't decode byte 0xe9 in position 7"),
        (TRAIN.encode("utf-16"), "is not UTF-8 text"),
        (b"PK\x03\x04\x14\x00", "cannot be read as YAML: unacceptable character #x0003"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is not UTF-8 text"),
        ("device: " + "[" * 5000, "is nested too deeply for a config"),
        ("a: " * 3 + "x", "cannot be read as YAML: line 1, column 5: mapping values are not allowed here"),
        ("train: {epochs: " + "9" * 5000 + "}",
         "cannot be read as YAML: line 1, column 17: cannot be read as a value (Exceeds the limit (4300 digits)"),
        ("#" * 1_000_001, "1000001 bytes, exceeds the limit of 1000000 bytes"),
    ],
)  # fmt: skip
def test_invalid_file_is_refused(write, content, message):
    assert error_message(write(content)).startswith(f"mine.yaml: {message}")


def test_byte_order_mark_is_accepted(write):
    assert load_config(write(b"\xef\xbb\xbf" + TRAIN.encode())).train.epochs == 1


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("!!python/object/apply:os.mkdir [MARK]", "!!python/object/apply:os.mkdir"),
        ("train: !!python/object/new:os.mkdir [MARK]", "!!python/object/new:os.mkdir"),
        ("device: !!python/name:os.mkdir", "!!python/name:os.mkdir"),
        ("? !!python/object/apply:os.mkdir [MARK]\n: 1", "!!python/object/apply:os.mkdir"),
        ("device: !mine x", "!mine"),
        ("device: !!binary aGVsbG8=", "!!binary"),
        ("device: !!timestamp 2024-01-01", "!!timestamp"),
        ("data: !!set {a}", "!!set"),
    ],
)
def test_tags_are_refused_without_running_code(write, tmp_path, text, tag):
    mark = tmp_path / "mark"
    message = error_message(write(text.replace("MARK", str(mark))))
    assert f"the tag {tag} is not supported; give a plain value" in message
    with pytest.raises(InputError, match=re.escape(f"the tag {tag} is not supported")):
        parse_override("a={" + text.replace("MARK", str(mark)).replace("\n", " ") + " }")
    assert not mark.exists()


@pytest.mark.parametrize("value", ["!!float abc", "!!int abc", "!!int ''", "!!bool abc"])
def test_plain_tag_before_other_text_is_refused(write, value):
    message = error_message(write(f"train: {{epochs: {value}}}"))
    assert message.startswith("mine.yaml: cannot be read as YAML: line 1, column 17: cannot be read as a value")


def test_aliases_are_refused_before_expansion(write):
    # Expanding the aliases would give 9**9 values.
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    start = time.process_time()
    message = error_message(write("\n".join(lines)))
    assert time.process_time() - start < 5
    assert message.startswith("mine.yaml: cannot be read as YAML: line 2, column 10: the alias *a0 is not supported")


@pytest.mark.parametrize("text", ["device: &a [*a]", "x: &d {epochs: 1}\ntrain: {<<: *d}", "device: *a"])
def test_recursive_merge_and_undefined_aliases_are_refused(write, text):
    assert re.search(
        r"line \d, column \d+: the alias \*\w is not supported; write the value out", error_message(write(text))
    )


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet=" \n:-[]{}!&*#'\"?,|>%@`~01eE.<=ab", max_size=40))
def test_any_text_is_read_or_raises_input_error(text):
    try:
        values = parse_override(f"data={text}")
        config_from_values({"train": {"epochs": 1}, **values}, source="any text")
    except InputError as error:
        assert str(error)
