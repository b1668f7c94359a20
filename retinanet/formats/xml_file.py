"""Parse XML files that may be hostile: no document type, so no entities, and a limit on their size."""

import xml.etree.ElementTree as ET
from pathlib import Path

from retinanet.errors import InputError

MAX_BYTES = 12_000_000  # 30,000 objects have less; parsed, a hostile file takes up to 50 times as much memory


class _Tree(ET.TreeBuilder):
    """Tree builder that refuses document types: only they can declare entities, which may expand without bound."""

    def doctype(self, name: str, *_: str | None) -> None:
        raise InputError(f"declares the document type {name[:40]!r}, which may define entities; remove <!DOCTYPE ...>")


def read_xml(file: Path) -> ET.Element:
    """Parse a file and return its root element.

    Raises:
        InputError: the file cannot be read, is too large, is not XML or declares a document type.
    """
    try:
        with open(file, "rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"has more than {MAX_BYTES} bytes")
        return ET.fromstring(content, ET.XMLParser(target=_Tree()))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two for encodings
        raise InputError(f"{file}: is not XML: {error}") from None
