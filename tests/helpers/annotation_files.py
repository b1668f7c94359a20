"""Results and errors of annotation readers in a form that is easy to compare."""

from collections.abc import Callable
from pathlib import Path

import pytest

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations


def boxes_by_image(read: Annotations) -> dict[str, list[tuple[str, list[float]]]]:
    """Class name and box (left, top, width, height) of each box, by file name."""
    result: dict[str, list[tuple[str, list[float]]]] = {name: [] for name in read.file_names}
    assert len(result) == len(read)
    for image, category, box in zip(read.image_index, read.category_index, read.boxes_xywh.tolist(), strict=True):
        result[read.file_names[image]].append((read.category_names[category], box))
    return result


def message_of(reader: Callable[..., Annotations], source: DataSource, *arguments: str) -> str:
    """Message of the InputError that a reader raises, without the folder of the source."""
    with pytest.raises(InputError) as caught:
        reader(source, *arguments)
    message = str(caught.value)
    return message.replace(f"{Path(source.annotations).parent}/", "")
