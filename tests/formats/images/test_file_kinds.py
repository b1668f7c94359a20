"""Files that are not images are recognised by their first bytes, regardless of their extension."""

import struct

import numpy as np
import pytest

from retinanet.errors import InputError
from retinanet.formats.images.file_kinds import describe
from retinanet.formats.images.reader import read_header
from tests.helpers.image_files import IMAGE, MAX_PIXELS, WIDE, read, tiff

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def iso_media(major, *compatible):
    """The first box of an ISO media file, with its brands."""
    brands = major + bytes(4) + b"".join(compatible)
    return struct.pack(">I4s", 8 + len(brands), b"ftyp") + brands + b"\0\0\0\x08free"


KINDS = {
    "git-lfs": (LFS, "is a Git LFS pointer, not the image itself; run `git lfs pull`"),
    "git-annex": (b"/annex/objects/SHA256E-s12--ab.jpg\n", "is a git-annex pointer.*run `git annex get`"),
    "heic": (iso_media(b"heic", b"mif1", b"heic"), "is HEIC, which is not supported: convert it to JPEG.*pillow-heif"),
    "heif": (iso_media(b"mif1", b"mif1", b"heic"), "is HEIC"),
    "crx": (iso_media(b"crx ", b"isom"), r"is a camera's RAW file \(CR3\)"),
    "mp4": (iso_media(b"isom", b"mp41"), r"is a video \(MP4 or QuickTime\).*ffmpeg"),
    "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", "is JPEG 2000, which is not supported: convert it to PNG"),
    "j2k": (b"\xff\x4f\xff\x51\0\x2f", "is JPEG 2000"),
    "jxl": (b"\xff\x0a\x00\x10", "is JPEG XL"),
    "jxl box": (b"\0\0\0\x0cJXL \r\n\x87\n", "is JPEG XL"),
    "psd": (b"8BPS\0\1", r"is PSD \(Photoshop\)"),
    "pdf": (b"%PDF-1.7\n", "is PDF.*pdftoppm"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0", "is PostScript"),
    "svg": (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg xmlns="http://www.w3.org/2000/svg">', "is SVG"),
    "dicom": (bytes(128) + b"DICM\2\0", "is DICOM.*16-bit PNG or TIFF.*pydicom"),
    "raf": (b"FUJIFILMCCD-RAW 0201", r"is a camera's RAW file \(RAF\).*darktable"),
    "rw2": (b"IIU\0\x18\0\0\0", r"is a camera's RAW file \(RW2\)"),
    "html": (b"\n<!DOCTYPE html>\n<html><head><title>404</title>", "is an HTML page.*download the image again"),
    "html without doctype": (b"<HTML><BODY>Forbidden", "is an HTML page"),
    "xml": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "is XML text.*server's error message"),
    "json": (b'{"message": "rate limit exceeded"}', "is JSON text"),
    "zeros": (bytes(5000), "is filled with zeros.*restore the file"),
    "resource fork": (b"\0\x05\x16\7\0\2\0\0Mac OS X", r"is a macOS resource fork \(a \._\* file.*delete it"),
    "fits": (b"SIMPLE  =                    T", "is FITS"),
    "exr": (b"v/1\1\2\0\0\0", "is OpenEXR"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "is HDF5"),
    "numpy": (b"\x93NUMPY\1\0", "is a NumPy array"),
    "pgm": (b"P5\n16 16\n255\n", "is PNM"),
    "ico": (b"\0\0\1\0\1\0\x10\x10", "is an icon"),
    "zip": (b"PK\3\4\x14\0", "is a ZIP archive.*extract it"),
    "gzip": (b"\x1f\x8b\x08\0", "is compressed with gzip"),
    "avi": (b"RIFF\0\0\1\0AVI LIST", r"is a video \(AVI\)"),
    "webm": (b"\x1a\x45\xdf\xa3\1\0", r"is a video \(Matroska or WebM\)"),
    "flv": (b"FLV\1\5", r"is a video \(FLV\)"),
    "mpeg": (b"\0\0\1\xba\x44", r"is a video \(MPEG\)"),
    "bigtiff": (b"MM\0+\0\x08\0\0" + bytes(8), "is BigTIFF with big-endian numbers.*save it as TIFF"),
}


@pytest.mark.parametrize("name", KINDS)
def test_message_names_the_kind_and_says_what_to_do(tmp_path, name):
    content, words = KINDS[name]
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    for reader in (read, lambda path: read_header(path, max_pixels=MAX_PIXELS)):
        with pytest.raises(InputError, match=rf"(?s)/image\.jpg: {words}") as caught:
            reader(path)
        assert "\n" not in str(caught.value)


def test_avif_that_pillow_cannot_read_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("retinanet.formats.images.opened.FORMATS", ("JPEG", "PNG"))
    for brands in ((b"avif", b"mif1"), (b"avis",), (b"mif1", b"miaf", b"avif")):
        (tmp_path / "image.avif").write_bytes(iso_media(*brands))
        with pytest.raises(InputError, match="is AVIF, which the installed Pillow cannot read: upgrade Pillow"):
            read(tmp_path / "image.avif")


@pytest.mark.parametrize(
    "tags",
    [[(50706, 0x00000401)], [(254, 1), (330, 1000)], [(262, 32803)]],
    ids=["DNG", "NEF and ARW: a preview and further images", "colour filter array"],
)
def test_raw_files_based_on_tiff_are_not_read_as_their_preview(tmp_path, tags):
    values = np.array(WIDE[..., 0])
    tags = dict(tags)
    data = tiff(values, dtype="<u2", photometric=tags.pop(262, 1), extra_tags=list(tags.items()))
    (tmp_path / "image.dng").write_bytes(data)
    with pytest.raises(InputError, match=r"image\.dng: is a camera's RAW file \(DNG, NEF, CR2 or similar\), which is"):
        read(tmp_path / "image.dng")


def test_cr2_is_not_read_as_its_preview(tmp_path):
    data = bytearray(tiff(WIDE[..., 0], dtype="<u2"))
    moved = struct.pack("<2sHI", b"II", 42, len(data)) + b"CR\2\0" + data[12:] + data[8:]
    (tmp_path / "image.cr2").write_bytes(moved)
    with pytest.raises(InputError, match="is a camera's RAW file"):
        read(tmp_path / "image.cr2")


def test_overviews_do_not_make_a_tiff_a_raw_file(tmp_path):
    (tmp_path / "image.tif").write_bytes(tiff(WIDE[..., 0], dtype="<u2", extra_tags=[(254, 0), (330, 1000)]))
    assert read(tmp_path / "image.tif").shape == (*WIDE.shape[:2], 3)


def test_unknown_bytes_have_no_description():
    for start in (b"", b"a few words", b"\xff\xd8\xff\xe0", b"II*\0 <svg <html", bytes(10) + b"\1" + b"<html>"):
        assert describe(start) is None


def test_image_with_a_wrong_extension_is_read(tmp_path):
    IMAGE.copy().save(tmp_path / "image.heic", "PNG")
    assert np.array_equal(read(tmp_path / "image.heic"), np.asarray(IMAGE))
