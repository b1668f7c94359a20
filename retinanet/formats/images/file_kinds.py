"""Recognise files that are not supported images by their first bytes, and explain what to do about them."""

import re

START = 4096  # bytes from the beginning of a file that `describe` needs

HEIC = "is HEIC, which is not supported: convert it to JPEG, for example with pillow-heif"
RAW = (
    "is a camera's RAW file ({}), which is not supported: develop it to JPEG, PNG or TIFF, for example with darktable "
    "or rawpy"
)
CONVERT = "is {}, which is not supported: convert it to PNG or JPEG"
VIDEO = (
    "is a video ({}), not an image: read its frames with retinanet.open_video, predict on it with `retinanet predict`, "
    "or extract its frames, for example with ffmpeg"
)
LFS = "is a Git LFS pointer, not the image itself; run `git lfs pull`"
ARCHIVE = "is {}, not an image; extract it"

# (position, bytes at that position, what the file is and what to do).
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", LFS),
    (0, b"version https://hawser", LFS),
    (0, b"/annex/objects/", "is a git-annex pointer, not the image itself; run `git annex get`"),
    (0, b"../.git/annex/objects/", "is a git-annex pointer, not the image itself; run `git annex get`"),
    (0, b"\0\x05\x16\7", "is a macOS resource fork (a ._* file created when copying), not an image; delete it"),
    (0, b"\0\0\0\1Bud1", "is a macOS .DS_Store file, not an image; delete it"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", CONVERT.format("JPEG 2000")),
    (0, b"\xff\x4f\xff\x51", CONVERT.format("JPEG 2000")),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", CONVERT.format("JPEG XL")),
    (0, b"\xff\x0a", CONVERT.format("JPEG XL")),
    (0, b"II\xbc\1", CONVERT.format("JPEG XR")),
    (0, b"MM\0+", "is BigTIFF with big-endian numbers, which is not supported: save it as TIFF"),
    (0, b"8BPS", CONVERT.format("PSD (Photoshop)")),
    (0, b"gimp xcf", CONVERT.format("XCF (GIMP)")),
    (0, b"%PDF", "is PDF, which is not supported: render its pages to PNG, for example with pdftoppm"),
    (0, b"%!PS", "is PostScript, which is not supported: render it to PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "is PostScript, which is not supported: render it to PNG"),
    (128, b"DICM", "is DICOM, which is not supported: convert it to 16-bit PNG or TIFF, for example with pydicom"),
    (0, b"FUJIFILMCCD-RAW", RAW.format("RAF")),
    (0, b"IIRO", RAW.format("ORF")),
    (0, b"IIRS", RAW.format("ORF")),
    (0, b"MMOR", RAW.format("ORF")),
    (0, b"IIU\0", RAW.format("RW2")),
    (0, b"FOVb", RAW.format("X3F")),
    (0, b"\0MRM", RAW.format("MRW")),
    (8, b"CR\2\0", RAW.format("CR2")),
    (0, b"SIMPLE  =", CONVERT.format("FITS")),
    (0, b"v/1\1", CONVERT.format("OpenEXR")),
    (0, b"#?RADIANCE", CONVERT.format("Radiance HDR")),
    (0, b"qoif", CONVERT.format("QOI")),
    (0, b"DDS ", CONVERT.format("DDS")),
    (0, b"\0\0\1\0", CONVERT.format("an icon (ICO)")),
    (0, b"\x89HDF\r\n\x1a\n", CONVERT.format("HDF5")),
    (0, b"CDF\1", CONVERT.format("NetCDF")),
    (0, b"CDF\2", CONVERT.format("NetCDF")),
    (0, b"\x93NUMPY", "is a NumPy array, which is not supported: save it as PNG or TIFF"),
    (0, b"PK\3\4", ARCHIVE.format("a ZIP archive")),
    (0, b"\x1f\x8b", ARCHIVE.format("compressed with gzip")),
    (0, b"7z\xbc\xaf\x27\x1c", ARCHIVE.format("a 7z archive")),
    (0, b"Rar!", ARCHIVE.format("a RAR archive")),
    (8, b"AVI ", VIDEO.format("AVI")),
    (0, b"\x1a\x45\xdf\xa3", VIDEO.format("Matroska or WebM")),
    (0, b"FLV\1", VIDEO.format("FLV")),
    (0, b"OggS", VIDEO.format("Ogg")),
    (0, b"\0\0\1\xba", VIDEO.format("MPEG")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", VIDEO.format("WMV")),
)
# Brands in the "ftyp" box of ISO media files; any other brand is a video.
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"}
AVIF = "is AVIF, which the installed Pillow cannot read: upgrade Pillow (AVIF needs 11.3 or later), or convert it"

TEXTS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"P[1-7]\s"), CONVERT.format("PNM (PBM, PGM, PPM or PAM)")),
    (re.compile(rb"(?is).*<svg[\s>]"), "is SVG, which is not supported: render it to PNG"),
    (
        re.compile(rb"(?is).*<(!doctype html|html)[\s>]"),
        "is an HTML page, not an image: the server probably sent an error page; download the image again",
    ),
    (re.compile(rb"(?s)<\?xml|<Error>"), "is XML text, not an image; it may be a server's error message"),
    (re.compile(rb"[\[{]\s*[\"{\[]"), "is JSON text, not an image"),
)


def describe(start: bytes) -> str | None:
    """Describe an unsupported file, and give advice; return None if its format is unknown.

    Args:
        start: the first `START` bytes of the file, or all of them if it is shorter.
    """
    if start and not start.strip(b"\0"):
        return "is filled with zeros, probably because a download, copy or disk failed; restore the file"
    for position, signature, description in SIGNATURES:
        if start.startswith(signature, position):
            return description
    if start[4:8] == b"ftyp":
        return _iso_media(start)
    if b"\0" in start[:256]:
        return None
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((description for pattern, description in TEXTS if pattern.match(text)), None)


def is_video_content(start: bytes) -> bool:
    """Return whether the first `START` bytes of a file are those of a video."""
    return (describe(start) or "").startswith(VIDEO.partition("(")[0])


def _iso_media(start: bytes) -> str:
    """Identify an ISO media file by its major brand and its compatible brands."""
    end = min(int.from_bytes(start[:4], "big"), 256)
    brands = {start[at : at + 4] for at in (8, *range(16, end, 4))}
    if brands & AVIF_BRANDS:
        return AVIF
    if start[8:12] == b"crx ":
        return RAW.format("CR3")
    return HEIC if brands & HEIC_BRANDS else VIDEO.format("MP4 or QuickTime")
