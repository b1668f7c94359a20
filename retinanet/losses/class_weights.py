"""The weight of each class in its class loss; inverse class frequency is the choice that Lin et al. 2017, 3.1, name."""

from collections.abc import Sequence

from retinanet.config import LossConfig, WeighedByClass
from retinanet.errors import InputError


def inverse_frequency(class_counts: Sequence[int]) -> tuple[float, ...]:
    """alpha_c = m / (m + n_c), n_c the objects of a class (one where there is none), m the mean of all n_c.

    The odds alpha_c : (1 - alpha_c), of an anchor of the class to any other anchor in the logits of that class, are
    m : n_c. A class of the mean size has 1/2, a rarer one more.
    """
    counts = [max(1, count) for count in class_counts]
    mean = sum(counts) / len(counts)
    return tuple(mean / (mean + count) for count in counts)


def with_class_weights(cfg: LossConfig, class_counts: Sequence[int]) -> LossConfig:
    """The same loss, with the numbers that `alpha: inverse_frequency` stands for in the data of a run.

    A run keeps these in its config: what goes on from it, scores it or replays it need not count again.
    """
    if not isinstance(cfg.classification, WeighedByClass) or cfg.classification.alpha != "inverse_frequency":
        return cfg
    classification = cfg.classification.model_copy(update={"alpha": inverse_frequency(class_counts)})
    return cfg.model_copy(update={"classification": classification})


def checked_alpha(cfg: WeighedByClass, num_classes: int | None) -> float | tuple[float, ...] | None:
    """
    Raises:
        InputError: not one weight a class, or not yet known.
    """
    key = "loss.classification.alpha"
    if cfg.alpha == "inverse_frequency":
        raise InputError(
            f"{key} is inverse_frequency, which a run works out when it starts, from its training data; give numbers"
        )
    if isinstance(cfg.alpha, tuple) and num_classes is not None and len(cfg.alpha) != num_classes:
        raise InputError(
            f"{key} has {len(cfg.alpha)} values for {num_classes} classes; give one number, or one a class in their "
            "order"
        )
    return cfg.alpha
