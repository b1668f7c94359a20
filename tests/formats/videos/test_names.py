"""Which files are videos."""

import pytest

from retinanet.formats.videos.names import is_video

AVI = b"RIFF\0\0\1\0AVI LIST"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.mp4", b"hello", True),
        ("a.MOV", b"", True),
        ("a.jpg", AVI, False),  # opened as an image, which says what it is
        ("a.gif", b"GIF89a", False),
        ("a", AVI, True),
        ("a.bin", b"\0\0\0\x18ftypisom\0\0\2\0", True),
        ("a", b"\0\0\0\x18ftypheic\0\0\0\0", False),
        ("a", b"", False),
    ],
)
def test_the_suffix_decides_and_otherwise_the_content(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert is_video(tmp_path / name) is expected


def test_a_missing_file_is_not_a_video(tmp_path):
    assert not is_video(tmp_path / "gone") and is_video(tmp_path / "gone.mp4")
