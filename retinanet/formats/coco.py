"""COCO annotation and results formats: read annotation files, and convert detections to results."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from retinanet.config import DataSource
from retinanet.formats.annotations import Annotations
from retinanet.formats.coco_stream import read_stream
from retinanet.formats.coco_tolerant import read_tolerantly
from retinanet.formats.index_cache import read_cached

if TYPE_CHECKING:
    from retinanet.structures import Detections


def read_coco(source: DataSource) -> Annotations:
    """Read a COCO annotation file; categories are ordered by id.

    Harmless deviations from the format are repaired, and listed in the findings of the result.

    Raises:
        InputError: the file is missing, is not in COCO format, or has entries that cannot be read; the message lists
            all of them by kind.
    """
    return read_cached(source, lambda: read_stream(source)) or read_tolerantly(source)


def coco_results(
    detections: Iterable[tuple[int | str, "Detections"]], category_ids: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Convert detections to the COCO results format, ready to be written to a file.

    Args:
        detections: pairs of an image id and the detections on that image.
        category_ids: the category id of each label.

    Returns:
        One result per detection; its bbox is [x, y, width, height].
    """
    return [result for image_id, found in detections for result in found.to_coco(image_id, category_ids)]
