"""Convert detections to the COCO results format."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinanet.structures import Detections


def coco_results(
    detections: Iterable[tuple[int | str, "Detections"]], category_ids: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Convert detections to the COCO results format, ready to be written to a file.

    Args:
        detections: pairs of an image id and the detections in that image.
        category_ids: the category id of each label.

    Returns:
        One result per detection; its bbox is [x, y, width, height].
    """
    return [result for image_id, found in detections for result in found.to_coco(image_id, category_ids)]
