"""Collect the boxes of a COCO file in compact arrays, because a file may have millions."""

from array import array

import numpy as np


class BoxColumns:
    """One column per field, one row per box."""

    def __init__(self) -> None:
        self.numbers, self.images, self.categories = array("q"), array("q"), array("q")
        self.without_number = array("q")  # rows whose number is missing or does not fit into 64 bits
        self.boxes_xywh, self.areas = array("d"), array("d")
        self.is_crowd = array("b")

    def add(
        self, *, number: int | None, image: int, category: int, bbox: list[float], area: float, is_crowd: bool
    ) -> None:
        if number is None or not -(2**63) <= number < 2**63:
            self.without_number.append(len(self.numbers))
            number = 0
        self.numbers.append(number)
        self.images.append(image)
        self.categories.append(category)
        self.boxes_xywh.extend(bbox)
        self.areas.append(area)
        self.is_crowd.append(is_crowd)

    def repeated_numbers(self) -> list[int]:
        """Return annotation numbers shared by several boxes."""
        numbers = np.sort(np.delete(np.array(self.numbers, dtype=np.int64), self.without_number))
        return np.unique(numbers[1:][numbers[1:] == numbers[:-1]]).tolist()
