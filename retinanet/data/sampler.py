"""Which images make which batch, and the padded shape they share: pure functions of sizes, seed and position."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class PlannedImage(NamedTuple):
    """One image of one batch, and how large it becomes there."""

    index: int  # in the data set
    epoch: int
    shorter: int  # its shorter side after resizing, unless `longer` decides
    longer: int
    padded_shape: tuple[int, int]  # padded height and width of the batch


class PaddedShapes:
    """The few padded shapes that batches come in.

    An image's shorter side becomes `shorter`, unless its longer side would pass `longer`: then that becomes `longer`.

    Args:
        longer: bound of the longer side, pixels.
        aspects: longer / shorter side of the padded shapes, landscape and portrait each; one more reaches to `longer`.
        divisor: padded sides are multiples of it.
    """

    def __init__(self, *, longer: int, aspects: Sequence[float], divisor: int):
        self.longer = longer
        self.aspects = sorted(set(aspects))
        self.divisor = divisor

    def group(self, height: int, width: int) -> tuple[bool, int]:
        """Whether an image is landscape, and which of the aspects holds it; after the last one, `longer` does."""
        aspect = max(height, width) / min(height, width)
        return width >= height, sum(aspect > known for known in self.aspects)

    def padded_shape(self, group: tuple[bool, int], shorter: int) -> tuple[int, int]:
        """Padded (height, width) of a group."""
        landscape, position = group
        longest = self.longer if position == len(self.aspects) else min(shorter * self.aspects[position], self.longer)
        short, long = (-(-int(side + 0.5) // self.divisor) * self.divisor for side in (shorter, longest))
        return (short, long) if landscape else (long, short)

    def every(self, shorter: int) -> list[tuple[int, int]]:
        """All the padded shapes (height, width) that images of this shorter side can come in."""
        groups = itertools.product((True, False), range(len(self.aspects) + 1))
        return sorted({self.padded_shape(group, shorter) for group in groups})


def resized(height: int, width: int, shorter: int, longer: int) -> tuple[int, int]:
    """Height and width that an image is resized to."""
    scale = min(shorter / min(height, width), longer / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def train_batches(
    sizes: Sequence[tuple[int, int]], *, batch_size: int, shorter: Sequence[int], padded_shapes: PaddedShapes, seed: int
) -> Iterator[list[PlannedImage]]:
    """An endless stream of full batches.

    Epochs are permutations one after the other. Images wait in the group of their shape until a batch is full, so
    no batch is short, and each image comes exactly once for every epoch, if some of them a little later.

    Args:
        sizes: (height, width) of each image.
        shorter: one of these is drawn for each batch.
        seed: with the position in the stream, decides everything.
    """
    assert len(sizes) > 0
    groups = [padded_shapes.group(height, width) for height, width in sizes]
    waiting: dict[tuple[bool, int], list[tuple[int, int]]] = {group: [] for group in groups}
    number = 0
    for epoch in itertools.count():
        for index in np.random.default_rng([seed, epoch]).permutation(len(sizes)).tolist():
            members = waiting[groups[index]]
            members.append((index, epoch))
            if len(members) < batch_size:
                continue
            side = shorter[stable_hash("shorter", seed, number) % len(shorter)]
            padded_shape = padded_shapes.padded_shape(groups[index], side)
            yield [PlannedImage(index, epoch, side, padded_shapes.longer, padded_shape) for index, epoch in members]
            members.clear()
            number += 1


def eval_batches(
    sizes: Sequence[tuple[int, int]], *, batch_size: int, shorter: int, padded_shapes: PaddedShapes
) -> list[list[PlannedImage]]:
    """Every image once, grouped by shape, in the order of the data set; the last batch of a group may be short."""
    groups: dict[tuple[bool, int], list[int]] = {}
    for index, (height, width) in enumerate(sizes):
        groups.setdefault(padded_shapes.group(height, width), []).append(index)
    batches = []
    for group, members in sorted(groups.items()):
        padded_shape = padded_shapes.padded_shape(group, shorter)
        for start in range(0, len(members), batch_size):
            chosen = members[start : start + batch_size]
            batches.append([PlannedImage(index, 0, shorter, padded_shapes.longer, padded_shape) for index in chosen])
    return batches


def stable_hash(*key: str | int) -> int:
    """32 bits from a key, the same on every machine and in every process (Python's own hash is not)."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest(), "little")
