"""Data records that flow through the detector: targets, batches, head outputs and detections.

Letters used in shape comments throughout the package:
    B images   C channels of an image   H, W padded input size   L pyramid levels   A anchors (A_l on one level)
    K classes, excluding background   N ground-truth boxes in one image, possibly 0   D detections in one image
Boxes are (x1, y1, x2, y2) in pixels of the padded input unless the name says otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import supervision
    from pandas import DataFrame


class Targets(NamedTuple):
    """Ground truth for a batch, padded to the same N >= 1. Padding is in neither mask: box (0, 0, 1, 1), label 0."""

    boxes: Tensor  # (B, N, 4) float32
    labels: Tensor  # (B, N) int64, 0..K-1
    is_object: Tensor  # (B, N) bool
    is_crowd: Tensor  # (B, N) bool, regions where no anchor counts as background
    has_crowd: bool = True  # False only if `is_crowd` is all False; kept on the host to avoid waiting for the device
    # (B, K) bool: whether all objects of a class are annotated (see `Federated.complete_labels`); None: all are
    is_complete: Tensor | None = None

    def map(self, function: Callable[[Any], Any]) -> "Targets":
        """Apply a function to every tensor in the record."""
        return self._replace(
            boxes=function(self.boxes),
            labels=function(self.labels),
            is_object=function(self.is_object),
            is_crowd=function(self.is_crowd),
            is_complete=None if self.is_complete is None else function(self.is_complete),
        )

    def to(self, device: torch.device) -> "Targets":
        """Copy all tensors to `device` without waiting for the copies to finish."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def tensors(self) -> list[Tensor]:
        """Return all tensors in the record."""
        tensors = [self.boxes, self.labels, self.is_object, self.is_crowd]
        return tensors if self.is_complete is None else [*tensors, self.is_complete]


class Unreadable(NamedTuple):
    """An image that could not be read, and the image that replaced it in the batch."""

    index: int  # type: ignore[assignment]  # dataset index, as is `replaced_by`
    epoch: int
    replaced_by: int
    reason: str  # error message, which names the file


class Batch(NamedTuple):
    """Images resized to fit one padded shape, with their ground truth."""

    images: Tensor  # (B, C, H, W) uint8, RGB if C is 3, zero in the padding
    image_sizes: Tensor  # (B, 2) int64, height and width without the padding
    original_sizes: Tensor  # (B, 2) int64, height and width in the file
    targets: Targets
    image_indices: tuple[int, ...]  # dataset indices
    unreadable: tuple[Unreadable, ...] = ()  # images that were replaced in this batch

    def to(self, device: torch.device) -> "Batch":
        """Copy all tensors to `device` without waiting for the copies to finish."""
        return self._replace(
            images=self.images.to(device, non_blocking=True),
            image_sizes=self.image_sizes.to(device, non_blocking=True),
            original_sizes=self.original_sizes.to(device, non_blocking=True),
            targets=self.targets.to(device),
        )

    def tensors(self) -> list[Tensor]:
        """Return all tensors in the record, including those in the targets."""
        return [self.images, self.image_sizes, self.original_sizes, *self.targets.tensors()]


class HeadOutputs(NamedTuple):
    """Raw network outputs for each pyramid level, the same in training and evaluation mode."""

    class_logits: list[Tensor]  # L x (B, A_l, K); K + 1 with softmax, background last
    box_deltas: list[Tensor]  # L x (B, A_l, 4)
    anchors: list[Tensor]  # L x (H_l, W_l, a, 4) with a anchors per grid cell: A_l = H_l * W_l * a
    # L x (B, A_l), or empty: logits of the quality of boxes, such as their IoU, whose sigmoid multiplies the scores
    quality: Sequence[Tensor] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Objects detected in one image, highest score first, with boxes in pixels of the original image.

    `len(detections)` is the number of objects. Indexing with an integer, a slice, a boolean mask (D,) or a list of
    indices returns `Detections`; iterating yields a one-object `Detections` for each object:

        confident = detections[detections.scores > 0.5]

    Raises:
        ValueError: the fields have different lengths, or boxes are not (D, 4).
    """

    boxes: Tensor  # (D, 4) float32
    scores: Tensor  # (D,) float32
    labels: Tensor  # (D,) int64, 0..K-1
    class_names: tuple[str, ...] | None = None  # indexed by label

    def __post_init__(self) -> None:
        shapes = [tuple(tensor.shape) for tensor in (self.boxes, self.scores, self.labels)]
        count = len(self.scores)
        if shapes != [(count, 4), (count,), (count,)]:
            raise ValueError(f"boxes, scores and labels have shapes {shapes}, expected (D, 4), (D,) and (D,)")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | Tensor | Sequence[int] | Sequence[bool] | np.ndarray) -> "Detections":
        rows: slice | Tensor
        if isinstance(index, slice):
            rows = index
        else:
            rows = torch.as_tensor(index, device=self.scores.device)
            if rows.is_floating_point() and rows.numel():
                raise IndexError(f"found an index of type {rows.dtype}, expected integers, a boolean mask or a slice")
            rows = rows if rows.dtype == torch.bool else rows.long()  # an empty list becomes a float tensor
            if rows.ndim == 0:
                position = int(rows)
                if not -len(self) <= position < len(self):
                    raise IndexError(f"index {position} is out of range for {len(self)} detections")
                rows = rows[None]
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows], self.class_names)

    def __iter__(self) -> Iterator["Detections"]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        shown = 5
        lines = [
            f"  {self.class_name(label)} {score:.2f} [{', '.join(f'{side:.1f}' for side in box)}]"
            for box, score, label in zip(
                self.boxes[:shown].tolist(), self.scores[:shown].tolist(), self.labels[:shown].tolist(), strict=True
            )
        ]
        if len(self) > shown:
            lines.append(f"  ... {len(self) - shown} more")
        return "\n".join([f"Detections({len(self)} object{'' if len(self) == 1 else 's'})", *lines])

    def class_name(self, label: int) -> str:
        """Name of a label, or text such as "class 3" if there are no class names."""
        return self.class_names[label] if self.class_names else f"class {label}"

    def to_coco(self, image_id: int | str, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Convert to COCO results: one dict per object with bbox [x, y, width, height], and `category_name` if known.

        Args:
            category_ids: COCO category id for each label; by default, the label + 1.
        """
        results = []
        for (x1, y1, x2, y2), score, label in zip(
            self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True
        ):
            result = {
                "image_id": image_id,
                "category_id": label + 1 if category_ids is None else category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            results.append(result | ({"category_name": self.class_names[label]} if self.class_names else {}))
        return results

    def to_pandas(self) -> "DataFrame":
        """Convert to a pandas data frame with columns xmin, ymin, xmax, ymax, label and score, one row per object.

        The column `label` has class names if they are known.

        Raises:
            ImportError: pandas is not installed.
        """
        from pandas import DataFrame

        columns = dict(zip(("xmin", "ymin", "xmax", "ymax"), self.boxes.cpu().double().numpy().T, strict=True))
        names = [self.class_names[label] for label in self.labels.tolist()] if self.class_names else None
        labels = self.labels.cpu().numpy() if names is None else np.array(names, dtype=object)
        return DataFrame({**columns, "label": labels, "score": self.scores.cpu().double().numpy()})

    def to_supervision(self) -> "supervision.Detections":
        """Convert to the supervision library's `Detections`, with copies of the arrays.

        If class names are known, `data["class_name"]` has the name of each object.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise ImportError("to_supervision needs the package supervision: pip install supervision") from error

        names = [self.class_names[label] for label in self.labels.tolist()] if self.class_names else None
        return supervision.Detections(
            xyxy=self.boxes.cpu().numpy().copy(),
            confidence=self.scores.cpu().numpy().copy(),
            class_id=self.labels.cpu().numpy().copy(),
            data={} if names is None else {"class_name": np.array(names, dtype=str)},
        )
