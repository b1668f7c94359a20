"""What is known about the classes of an image in federated datasets, where most classes were never looked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Federated:
    """Pairs of an image and a category, as indices: (P, 2) int64 each, sorted, without repetitions.

    A category that has neither an object in an image nor a pair in `absent` was not looked for in that image.

    Attributes:
        absent: verified to have no object in the image.
        incomplete: has objects in the image that are not annotated.
    """

    absent: np.ndarray
    incomplete: np.ndarray

    def subset(self, images: Sequence[int] | np.ndarray, num_images: int) -> "Federated":
        """Pairs of the given images, which become 0, 1, ..."""
        new_index = np.full(num_images, -1, dtype=np.int64)
        new_index[images] = np.arange(len(images))
        return Federated(*(_mapped(pairs, new_index, 0) for pairs in (self.absent, self.incomplete)))

    def relabel(self, label_of: np.ndarray) -> "Federated":
        """Pairs of images and labels; a merged class is absent if all its categories are, incomplete if any of them is.

        Args:
            label_of: (C,) int64, the label of each category, -1 for none.
        """
        absent = _mapped(self.absent, label_of, 1, unique=False)
        pairs, counts = np.unique(absent, axis=0, return_counts=True)
        size_of_class = np.bincount(label_of[label_of >= 0], minlength=1)
        return Federated(pairs[counts == size_of_class[pairs[:, 1]]], _mapped(self.incomplete, label_of, 1))


def join(parts: Sequence[tuple[Federated | None, int]]) -> Federated | None:
    """Pairs of several datasets, whose images follow each other; None if none of them is federated.

    In a dataset that is not federated, all classes were looked for. That cannot be mixed with one that is.

    Args:
        parts: the pairs and the number of images of each dataset.
    """
    federated = [part for part, _ in parts if part is not None]
    if not federated:
        return None
    assert len(federated) == len(parts)
    starts = np.cumsum([0, *(count for _, count in parts)])[:-1]
    shifts = [np.array([[start, 0]], dtype=np.int64) for start in starts]
    return Federated(
        np.concatenate([part.absent + shift for part, shift in zip(federated, shifts, strict=True)]),
        np.concatenate([part.incomplete + shift for part, shift in zip(federated, shifts, strict=True)]),
    )


def pairs_of(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Pairs (P, 2) of the position of each row and its values."""
    pairs = [(index, value) for index, row in enumerate(rows) for value in row]
    return np.unique(np.array(pairs, dtype=np.int64).reshape(-1, 2), axis=0)


def _mapped(pairs: np.ndarray, new_value: np.ndarray, column: int, *, unique: bool = True) -> np.ndarray:
    """The pairs with new values in one column, without those that become -1."""
    values = new_value[pairs[:, column]]
    mapped = pairs.copy()
    mapped[:, column] = values
    mapped = mapped[values >= 0]
    return np.unique(mapped, axis=0) if unique else mapped
