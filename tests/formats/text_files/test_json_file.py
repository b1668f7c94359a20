"""Files that are JSON in some form, and files that are not."""

import gzip
import io
import json
import tarfile
import zipfile

import pytest

from retinanet.errors import InputError
from retinanet.formats.text_files.json_file import load_json, open_json

VALUE = {"name": "é漢", "numbers": [1, 2.5]}
TEXT = json.dumps(VALUE, ensure_ascii=False)


def write(path, data):
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-32"),
        gzip.compress(TEXT.encode()),
        gzip.compress(b"\xef\xbb\xbf" + TEXT.encode()),
    ],
    ids=["UTF-8", "byte order mark", "UTF-16", "UTF-32", "gzip", "gzip with byte order mark"],
)
def test_json_is_parsed(tmp_path, data):
    assert load_json(write(tmp_path / "a.json", data)) == VALUE


def archive(kind):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as file:
            file.writestr("a.json", TEXT)
    else:
        with tarfile.open(fileobj=out, mode=f"w:{kind}") as file:
            file.addfile(tarfile.TarInfo("a.json"))
    return out.getvalue()


NOT_JSON = {
    "empty": (b" \n", "is empty, expected JSON; download or export it again"),
    "GBK": ('{"name": "方"}'.encode("gbk"), "is not UTF-8 text (byte 0xb7 at position 10); save it as UTF-8"),
    "Latin-1": ('{"name": "é"}'.encode("latin-1"), "is not UTF-8 text (byte 0xe9 at position 10); save it as UTF-8"),
    "cut in a list": (b'{"images": [1, 2, ', "is not JSON: it is incomplete, and ends after 18 characters; "),
    "cut in a text": (b'{"images": ["a', "is not JSON: it is incomplete, and ends after 14 characters; "),
    "comma": (b'{"images": [1, 2,]}', "is not JSON: line 1, column 1"),
    "single quotes": (b"{'images': []}", "is not JSON: line 1, column 2 has \"'images': []}\": Expecting"),
    "JSON Lines": (b'{"a": 1}\n{"a": 2}\n', "is not JSON: it has several JSON documents, one per line (JSON Lines)"),
    "nested": (b"[" * 100_000, "is not JSON: "),
    "large number": (b"9" * 5000, "is not JSON: "),
    "zip": (archive("zip"), "is a zip archive; extract it, and set the path to the extracted file or folder"),
    "tar.gz": (archive("gz"), "is a tar archive; extract it"),
    "tar.bz2": (archive("bz2"), "is compressed by bzip2; decompress it"),
    "tar.xz": (archive("xz"), "is compressed by xz; decompress it"),
    "tar": (archive(""), "is a tar archive; extract it"),
    "JPEG": (b"\xff\xd8\xff\xe0JFIF", "is a JPEG image; set data.*.annotations to the annotations"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer, not the file itself; run `git "),
    "web page": (b"<!DOCTYPE html><html>", "is a web page; the download failed"),
    "XML": (b"<annotation></annotation>", "is XML, expected JSON; for a dataset in Pascal VOC format"),
    "cut gzip": (gzip.compress(TEXT.encode())[:-10], "is damaged or incomplete gzip"),
    "damaged gzip": (gzip.compress(TEXT.encode())[:12] + b"\xff" * 20, "is damaged or incomplete gzip"),
    "gzip bomb": (gzip.compress(bytes(40_000_000)), "decompresses to more than 64 times its size, which "),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_JSON)
def test_other_files_are_reported(tmp_path, name):
    data, message = NOT_JSON[name]
    file = write(tmp_path / "a.json", data)
    with pytest.raises(InputError) as caught:
        load_json(file)
    assert str(caught.value).startswith(f"{file}: {message}")


def test_compressed_file_is_read_in_pieces_of_any_size(tmp_path):
    data = TEXT.encode() * 1000
    with open_json(write(tmp_path / "a.json", gzip.compress(data))) as stream:
        parts = [stream.read(7), stream.read(100), stream.read()]
    assert [len(part) for part in parts[:2]] == [7, 100] and b"".join(parts) == data


def test_missing_file_and_folder_are_errors(tmp_path):
    for path, reason in ((tmp_path / "gone.json", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=f"cannot be read: {reason}; set data"):
            load_json(str(path))
