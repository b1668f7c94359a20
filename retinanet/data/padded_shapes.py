"""Size of an image after resizing, aspect-ratio buckets, and the few padded shapes that batches can have."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class AspectBucket(NamedTuple):
    """Aspect-ratio bucket: images of one orientation and of similar aspect ratio, which share a padded shape."""

    is_landscape: bool  # or square
    position: int  # among the sorted `aspects` of PaddedShapes; one more for images beyond the last


class PaddedShapes:
    """The few padded shapes that batches can have.

    The shorter side of an image is resized to `shorter`, unless its longer side would exceed `longer`: then the longer
    side is resized to `longer`.

    Args:
        longer: upper bound of the longer side, pixels.
        aspects: longer / shorter side of the buckets, in landscape and in portrait; one more bucket extends to
            `longer`.
        divisor: padded sides are multiples of it.
    """

    def __init__(self, *, longer: int, aspects: Sequence[float], divisor: int):
        self.longer = longer
        self.aspects = sorted(set(aspects))
        self.divisor = divisor

    def bucket(self, height: int, width: int) -> AspectBucket:
        """Aspect-ratio bucket of an image."""
        aspect = max(height, width) / min(height, width)
        return AspectBucket(width >= height, sum(aspect > known for known in self.aspects))

    def padded_shape(self, bucket: AspectBucket, shorter: int) -> tuple[int, int]:
        """Padded (height, width) of a bucket."""
        is_last = bucket.position == len(self.aspects)
        longest = self.longer if is_last else min(shorter * self.aspects[bucket.position], self.longer)
        short, long = (-(-int(side + 0.5) // self.divisor) * self.divisor for side in (shorter, longest))
        return (short, long) if bucket.is_landscape else (long, short)

    def all_shapes(self, shorter: int) -> list[tuple[int, int]]:
        """Padded (height, width) of every bucket, sorted, each once."""
        buckets = itertools.product((True, False), range(len(self.aspects) + 1))
        return sorted({self.padded_shape(AspectBucket(*bucket), shorter) for bucket in buckets})


def resized(height: int, width: int, shorter: int, longer: int) -> tuple[int, int]:
    """Height and width of an image after resizing."""
    scale = min(shorter / min(height, width), longer / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
