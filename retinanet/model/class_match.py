"""Match the classes of two detectors, and copy the rows of shared classes from one class layer to another."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassMatch:
    """Classes that two detectors share, and those that only one has."""

    labels: tuple[int, ...]  # of the shared classes in the new detector
    trained_labels: tuple[int, ...]  # of the same classes in the trained detector
    shared: tuple[str, ...]  # names of the shared classes
    new: tuple[str, ...]  # classes that only the new detector has
    dropped: tuple[str, ...]  # classes that only the trained detector has
    how: str  # how they were matched, for messages

    @property
    def is_complete(self) -> bool:
        """Whether both detectors have the same classes with the same labels."""
        return not self.new and not self.dropped and self.labels == self.trained_labels


def match_by_name(class_names: Sequence[str], trained_names: Sequence[str]) -> ClassMatch:
    """Match classes that have the same name."""
    shared = tuple(name for name in class_names if name in trained_names)
    return ClassMatch(
        labels=tuple(list(class_names).index(name) for name in shared),
        trained_labels=tuple(list(trained_names).index(name) for name in shared),
        shared=shared,
        new=tuple(name for name in class_names if name not in trained_names),
        dropped=tuple(name for name in trained_names if name not in class_names),
        how="by name",
    )


def match_by_position(
    class_names: Sequence[str], num_trained: int, *, has_background_slot: bool = False
) -> ClassMatch | None:
    """Match all classes in order with those of a detector whose class names are not known.

    Args:
        num_trained: number of classes of the trained detector.
        has_background_slot: whether the first of them may be background, if there is one more than needed.

    Returns:
        None if the numbers of classes differ.
    """
    labels = tuple(range(len(class_names)))
    how = "by position, because the weights do not name their classes"
    if num_trained == len(labels):
        return ClassMatch(labels, labels, tuple(class_names), (), (), how)
    if has_background_slot and num_trained == len(labels) + 1:
        trained_labels = tuple(label + 1 for label in labels)
        return ClassMatch(labels, trained_labels, tuple(class_names), (), ("the slot for background",), how)
    return None


def copy_rows(
    trained: Tensor, initial: Tensor, match: ClassMatch, num_trained: int, num_classes: int, *, background: bool
) -> Tensor:
    """Copy the rows of shared classes, and of background, into a copy of the initial weight or bias.

    Rows are ordered by (anchor in the cell, class), with the class varying fastest; background is the last class.

    Args:
        trained: weight or bias of the trained detector, (a * K, ...) with K = `num_trained`, or K + 1 with background.
        initial: the same of the new detector, with K = `num_classes`.
        background: whether both have a row for background.
    """
    rows, trained_rows = (
        torch.tensor([*labels, *[count] * background], dtype=torch.int64, device=initial.device)
        for labels, count in ((match.labels, num_classes), (match.trained_labels, num_trained))
    )
    new = initial.unflatten(0, (-1, num_classes + background)).clone()
    old = trained.to(new).unflatten(0, (-1, num_trained + background))
    return new.index_copy(1, rows, old.index_select(1, trained_rows)).flatten(0, 1)
