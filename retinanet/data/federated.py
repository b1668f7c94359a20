"""Check configs for federated data, in which only some classes were checked in each image."""

import logging

from retinanet.config import Config, CopyPasteTransform, MixUpTransform, MosaicTransform
from retinanet.errors import InputError

log = logging.getLogger(__name__)


def check_background(cfg: Config, *, where: str) -> None:
    """Reject class scores with a background score, which cannot be trained or evaluated on federated data.

    Args:
        where: the config key and the annotation file.

    Raises:
        InputError: the model uses softmax class scores.
    """
    if cfg.model.has_background_logit:
        raise InputError(
            f"{where} has LVIS annotations, which cover only some classes of each image, but model.class_activation is "
            "softmax, whose background score means that an anchor shows none of the classes; set "
            "model.class_activation=sigmoid and loss.classification.type=focal or another sigmoid loss"
        )


def warn_of_combined_images(cfg: Config) -> None:
    """Warn about transforms that combine images, because few classes were checked in all their parts."""
    combining = [
        t.type for t in cfg.data.transforms if isinstance(t, MosaicTransform | MixUpTransform | CopyPasteTransform)
    ]
    if combining:
        log.warning(
            "data.transforms has %s: with LVIS annotations, a combined image is background only for the few classes "
            "that were checked in all its parts, so training hardly suppresses false detections; lower p, or omit it",
            ", ".join(combining),
        )
