"""Class weights (alpha) as the config states them: computed from the training data, and checked against the classes."""

from collections.abc import Sequence

from retinanet.config import LossConfig, WeighedByClass
from retinanet.errors import InputError
from retinanet.losses.class_weights import inverse_frequency


def with_class_weights(cfg: LossConfig, class_counts: Sequence[int]) -> LossConfig:
    """Replace `alpha: inverse_frequency` with weights computed from the training data; return other configs unchanged.

    The run stores the result in its config, so resuming, evaluating or replaying it never has to count objects again.
    """
    if not isinstance(cfg.classification, WeighedByClass) or cfg.classification.alpha != "inverse_frequency":
        return cfg
    classification = cfg.classification.model_copy(update={"alpha": inverse_frequency(class_counts)})
    return cfg.model_copy(update={"classification": classification})


def checked_alpha(cfg: WeighedByClass, num_classes: int | None) -> float | tuple[float, ...] | None:
    """Return the configured alpha as numbers. If it is a list, check its length, unless `num_classes` is None.

    Raises:
        InputError: alpha is a list of the wrong length, or has not been computed yet.
    """
    key = "loss.classification.alpha"
    if cfg.alpha == "inverse_frequency":
        raise InputError(
            f"{key} is inverse_frequency, which is computed from the training data when a run starts; set numbers"
        )
    if isinstance(cfg.alpha, tuple) and num_classes is not None and len(cfg.alpha) != num_classes:
        raise InputError(
            f"{key} has {len(cfg.alpha)} values for {num_classes} classes; set one number, or one for each class, in "
            "class order"
        )
    return cfg.alpha
