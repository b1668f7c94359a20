"""Read LVIS annotations: COCO's format with verified categories for each image, and URLs in place of file names."""

from retinanet.config import DataSource
from retinanet.formats.annotations import Annotations
from retinanet.formats.coco_stream import read_stream
from retinanet.formats.coco_tolerant import read_tolerantly


def read_lvis(source: DataSource) -> Annotations:
    """Read an LVIS annotation file, whose images are named by the last folder and the file name of their URL.

    Raises:
        InputError: as in `read_coco`.
    """
    return read_stream(source, lvis=True) or read_tolerantly(source, lvis=True)
