"""Checks of configs against federated data, where only some classes were looked for in each image."""

import logging

from retinanet.config import Config, CopyPasteTransform, MixUpTransform, MosaicTransform
from retinanet.errors import InputError

log = logging.getLogger(__name__)


def check_background(cfg: Config, *, where: str) -> None:
    """Reject class scores that include one for background: it cannot be trained or measured on federated data.

    Args:
        where: the config key and the annotation file.

    Raises:
        InputError: the class scores are a softmax.
    """
    if cfg.model.has_background_logit:
        raise InputError(
            f"{where} has LVIS annotations, which list only some classes of each image, but model.class_activation is "
            "softmax, whose background score claims that an anchor shows none of all classes; set "
            "model.class_activation=sigmoid and loss.classification.type=focal, or another loss for it"
        )


def warn_of_combined_images(cfg: Config) -> None:
    """Warn of transforms that combine images, because few classes were looked for in all their parts."""
    combining = [
        t.type for t in cfg.data.transforms if isinstance(t, MosaicTransform | MixUpTransform | CopyPasteTransform)
    ]
    if combining:
        log.warning(
            "data.transforms has %s: with LVIS annotations, a combined image is background only for the few classes "
            "that were looked for in all its parts, so false detections are hardly unlearnt; lower p, or omit it",
            ", ".join(combining),
        )
