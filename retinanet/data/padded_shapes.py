"""Resized image sizes, aspect-ratio buckets and the padded shapes of batches."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class AspectBucket(NamedTuple):
    """Aspect-ratio bucket: images of the same orientation and similar aspect ratio, which share a padded shape."""

    is_landscape: bool  # or square
    position: int  # in the sorted `aspects` of PaddedShapes; len(aspects) if the image is more elongated than all


class PaddedShapes:
    """A small set of padded shapes for batches.

    An image is resized so that its shorter side is `shorter`. If its longer side would then exceed `longer`, it is
    resized so that its longer side is `longer`.

    Args:
        longer: upper bound of the longer side, in pixels.
        aspects: largest ratio of longer to shorter side in each bucket, for both orientations; a final bucket allows
            sides of up to `longer`.
        divisor: padded sides are multiples of this number.
    """

    def __init__(self, *, longer: int, aspects: Sequence[float], divisor: int):
        self.longer = longer
        self.aspects = sorted(set(aspects))
        self.divisor = divisor

    def bucket(self, height: int, width: int) -> AspectBucket:
        """Return the aspect-ratio bucket of an image."""
        aspect = max(height, width) / min(height, width)
        return AspectBucket(width >= height, sum(aspect > known for known in self.aspects))

    def padded_shape(self, bucket: AspectBucket, shorter: int) -> tuple[int, int]:
        """Return the padded (height, width) of a bucket."""
        is_last = bucket.position == len(self.aspects)
        longest = self.longer if is_last else min(shorter * self.aspects[bucket.position], self.longer)
        short, long = (-(-int(side + 0.5) // self.divisor) * self.divisor for side in (shorter, longest))
        return (short, long) if bucket.is_landscape else (long, short)

    def all_shapes(self, shorter: int) -> list[tuple[int, int]]:
        """Return the distinct padded (height, width) of all buckets, sorted."""
        buckets = itertools.product((True, False), range(len(self.aspects) + 1))
        return sorted({self.padded_shape(AspectBucket(*bucket), shorter) for bucket in buckets})


def resized(height: int, width: int, shorter: int, longer: int) -> tuple[int, int]:
    """Return the height and width of an image after resizing."""
    scale = min(shorter / min(height, width), longer / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
