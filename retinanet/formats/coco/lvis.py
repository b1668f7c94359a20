"""Read LVIS annotations: the COCO format with verified categories per image and URLs instead of file names."""

from retinanet.config import DataSource
from retinanet.formats.annotations import Annotations
from retinanet.formats.coco.stream import read_stream
from retinanet.formats.coco.tolerant import read_tolerantly


def read_lvis(source: DataSource) -> Annotations:
    """Read an LVIS annotation file; images are named by the last folder and the file name in their URL.

    Raises:
        InputError: as in `read_coco`.
    """
    return read_stream(source, lvis=True) or read_tolerantly(source, lvis=True)
