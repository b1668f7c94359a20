"""Verified classes per image of federated datasets, in which most classes of an image were never checked."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Federated:
    """Verified (image, category) pairs, as sorted (P, 2) int64 index arrays without repetitions.

    A category that has neither an object in an image nor a pair in `absent` was not checked in that image.

    Attributes:
        absent: the category is verified to have no objects in the image.
        incomplete: the category has objects in the image that are not annotated.
    """

    absent: np.ndarray
    incomplete: np.ndarray

    def subset(self, images: Sequence[int] | np.ndarray, num_images: int) -> "Federated":
        """Return the pairs of the given images, which are renumbered from 0."""
        new_index = np.full(num_images, -1, dtype=np.int64)
        new_index[images] = np.arange(len(images))
        return Federated(*(_mapped(pairs, new_index, 0) for pairs in (self.absent, self.incomplete)))

    def relabel(self, label_of: np.ndarray, annotated: np.ndarray) -> "Federated":
        """Return (image, label) pairs.

        A merged class is absent if all its categories are. It is incomplete if any of them is, or if it has an object
        and one of them was not checked.

        Args:
            label_of: (C,) int64, the label of each category, -1 for none.
            annotated: (M, 2) int64, the image and the category of each annotation.
        """
        size_of_class = np.bincount(label_of[label_of >= 0], minlength=1)
        absent, counts = _labels_of(self.absent, label_of)
        absent = absent[counts == size_of_class[absent[:, 1]]]
        incomplete = _mapped(self.incomplete, label_of, 1)
        if size_of_class.max() > 1:
            known = np.unique(np.concatenate([self.absent, annotated]), axis=0)
            partly, counts = _labels_of(known, label_of)
            partly = partly[counts < size_of_class[partly[:, 1]]]
            key = np.array([len(label_of), 1])  # encodes a pair as one number
            partly = partly[np.isin(partly @ key, _mapped(annotated, label_of, 1) @ key)]
            incomplete = np.unique(np.concatenate([incomplete, partly]), axis=0)
        return Federated(absent, incomplete)

    def complete_labels(self, image: int, annotated: np.ndarray, *, num_classes: int) -> np.ndarray:
        """Return which classes are completely annotated in an image: (K,) bool.

        A class is complete if it is verified to be absent, or has annotations and is not listed as incomplete. A class
        that was not checked may have unannotated objects, and so may one that is listed as incomplete, even if it is
        also listed as absent (Gupta et al. 2019, LVIS).

        Training follows the same rule as evaluation: the logit of an incomplete class contributes to the loss only at
        anchors assigned to an annotated object of that class. All other logits are trained as usual, so an image
        provides background only for its complete classes. The federated loss of Zhou et al. (2021, Probabilistic
        two-stage detection) instead samples negative classes by frequency, whether they are verified or not.

        Args:
            annotated: (N,) int64, the labels of the image's annotations.
        """
        complete = np.zeros(num_classes, dtype=bool)
        complete[annotated] = True
        complete[_of_image(self.absent, image)] = True
        complete[_of_image(self.incomplete, image)] = False
        return complete


def join(parts: Sequence[tuple[Federated | None, int]]) -> Federated | None:
    """Join the records of datasets whose images are concatenated; None if no dataset is federated.

    A federated dataset cannot be joined with one in which all classes were annotated.

    Args:
        parts: the record and the number of images of each dataset.
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
    """Convert rows of values to (row index, value) pairs: (P, 2)."""
    pairs = [(index, value) for index, row in enumerate(rows) for value in row]
    return np.unique(np.array(pairs, dtype=np.int64).reshape(-1, 2), axis=0)


def _of_image(pairs: np.ndarray, image: int) -> np.ndarray:
    """Return the second values of an image's pairs, by binary search."""
    images = pairs[:, 0]
    return pairs[bisect_left(images, image) : bisect_left(images, image + 1), 1]


def _labels_of(pairs: np.ndarray, label_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct (image, label) pairs, and how many of the label's categories are paired with the image.

    Args:
        pairs: distinct (image, category) pairs.
    """
    return np.unique(_mapped(pairs, label_of, 1, unique=False), axis=0, return_counts=True)


def _mapped(pairs: np.ndarray, new_value: np.ndarray, column: int, *, unique: bool = True) -> np.ndarray:
    """Replace the values in one column of the pairs, and drop pairs whose value becomes -1."""
    values = new_value[pairs[:, column]]
    mapped = pairs.copy()
    mapped[:, column] = values
    mapped = mapped[values >= 0]
    return np.unique(mapped, axis=0) if unique else mapped
