"""Parse possibly hostile XML files: without document types, hence without entities, and with a size limit."""

import xml.etree.ElementTree as ET
from pathlib import Path

from retinanet.errors import InputError
from retinanet.formats.text_files.content import read_limited

MAX_BYTES = 12_000_000  # 30,000 objects take less; parsing a hostile file takes up to 50 times as much memory


class _Tree(ET.TreeBuilder):
    """Tree builder that rejects document types: only they can declare entities, which may expand without bound."""

    def doctype(self, name: str, *_: str | None) -> None:
        raise InputError(f"declares the document type {name[:40]!r}, which may define entities; remove <!DOCTYPE ...>")


def read_xml(file: Path) -> ET.Element:
    """Parse a file and return its root element.

    Raises:
        InputError: the file cannot be read, is too large, is not XML or declares a document type.
    """
    try:
        content = read_limited(file, max_bytes=MAX_BYTES)
        return ET.fromstring(content, ET.XMLParser(target=_Tree()))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two from encodings
        raise InputError(f"{file}: is not XML: {error}") from None
