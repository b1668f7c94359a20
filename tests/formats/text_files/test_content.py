"""Sizes and encodings of text files."""

import codecs

import pytest

from retinanet.formats.text_files.content import encoding_of, read_limited
from retinanet.formats.text_files.lines import read_lines


def test_file_up_to_the_limit_is_read(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"12345")
    assert read_limited(file, max_bytes=5) == b"12345"
    with pytest.raises(OSError) as caught:
        read_limited(file, max_bytes=4)
    assert (caught.value.strerror, caught.value.filename) == ("it has more than 4 bytes", str(file))


@pytest.mark.parametrize(
    "content",
    [
        "caf\xe9\ncat\n".encode(),
        codecs.BOM_UTF8 + "caf\xe9\r\ncat".encode(),
        codecs.BOM_UTF16_LE + "caf\xe9\ncat".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "caf\xe9\ncat\n\n".encode("utf-16-be"),
    ],
    ids=["UTF-8", "UTF-8 with mark", "UTF-16 LE", "UTF-16 BE"],
)
def test_encodings_with_a_byte_order_mark_are_recognised(tmp_path, content):
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    assert read_lines(file) == ["caf\xe9", "cat"]
    assert content.decode(encoding_of(content)).split()[0] == "caf\xe9"
