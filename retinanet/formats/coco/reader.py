"""Read COCO annotation files."""

from retinanet.config import DataSource
from retinanet.formats.annotations import Annotations
from retinanet.formats.coco.cache import read_cached
from retinanet.formats.coco.stream import read_stream
from retinanet.formats.coco.tolerant import read_tolerantly


def read_coco(source: DataSource) -> Annotations:
    """Read a COCO annotation file; categories are ordered by id.

    Harmless deviations from the format are repaired and listed in the findings of the result.

    Raises:
        InputError: the file is missing, is not in COCO format, or has entries that cannot be read; the message lists
            all of them by kind.
    """
    return read_cached(source, lambda: read_stream(source)) or read_tolerantly(source)
