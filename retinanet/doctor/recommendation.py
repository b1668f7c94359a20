"""One recommended change of a config."""

from typing import NamedTuple


class Recommendation(NamedTuple):
    """Advice on one topic: a sentence, and the overrides to apply, if any."""

    topic: str  # "image size", "levels", "anchors", "batch", "sampling", "schedule" or "channels"
    sentence: str
    lines: tuple[str, ...] = ()
