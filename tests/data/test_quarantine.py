import json
import logging

import pytest

from retinanet.data.quarantine import Quarantine
from retinanet.errors import InputError
from retinanet.structures import Unreadable
from tests.helpers.datasets import dataset_of, image_record

DATASET = dataset_of([image_record(f"/images/{number}.jpg", boxes=(), image_id=100 + number) for number in range(10)])


def unreadable(index, *, epoch=0, replaced_by=9):
    return Unreadable(index, epoch, replaced_by, f"/images/{index}.jpg: truncated")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "unreadable.jsonl"


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_each_image_is_recorded_once(file, caplog):
    quarantine = Quarantine(file, budget=5)
    quarantine.add([], DATASET)
    assert not file.exists() and len(quarantine) == 0
    with caplog.at_level(logging.WARNING):
        quarantine.add([(3, unreadable(1)), (3, unreadable(4, replaced_by=2))], DATASET)
        quarantine.add([(7, unreadable(1, epoch=1, replaced_by=5))], DATASET)
        quarantine.add([(9, unreadable(1, epoch=2)), (9, unreadable(6))], DATASET)
    assert len(quarantine) == 3
    assert lines(file) == [
        {
            "path": f"/images/{index}.jpg",
            "image_id": 100 + index,
            "reason": f"/images/{index}.jpg: truncated",
            "step": step,
            "replaced_by": f"/images/{other}.jpg",
        }
        for index, step, other in ((1, 3, 9), (4, 3, 2), (6, 9, 9))
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "step 3: /images/1.jpg: truncated; replaced by /images/9.jpg",
        "step 3: /images/4.jpg: truncated; replaced by /images/2.jpg",
        "step 9: /images/6.jpg: truncated; replaced by /images/9.jpg",
    ]


def test_exceeding_the_budget_is_an_error_and_recorded(file):
    quarantine = Quarantine(file, budget=2)
    quarantine.add([(1, unreadable(1)), (1, unreadable(2))], DATASET)
    quarantine.add([(2, unreadable(2, epoch=1)), (2, unreadable(1, epoch=1))], DATASET)  # the same images again
    with pytest.raises(InputError) as caught:
        quarantine.add([(5, unreadable(3)), (5, unreadable(4))], DATASET)
    assert str(caught.value).startswith(f"{file}: lists 4 images that cannot be read, expected at most 2 ")
    assert "data.max_unreadable" in str(caught.value)
    assert [line["image_id"] for line in lines(file)] == [101, 102, 103, 104]


def test_budget_of_zero_allows_no_unreadable_image(file):
    quarantine = Quarantine(file, budget=0)
    quarantine.add([], DATASET)
    with pytest.raises(InputError, match=r"lists 1 images .* at most 0"):
        quarantine.add([(2, unreadable(1))], DATASET)


def test_resumed_run_counts_earlier_entries(file):
    Quarantine(file, budget=3).add([(1, unreadable(1)), (1, unreadable(2))], DATASET)
    resumed = Quarantine(file, budget=3)
    assert len(resumed) == 2
    resumed.add([(1, unreadable(1)), (1, unreadable(3))], DATASET)  # the same step again, as after a killed run
    assert [line["image_id"] for line in lines(file)] == [101, 102, 103]
    with pytest.raises(InputError, match="lists 4 images"):
        resumed.add([(2, unreadable(4))], DATASET)


def test_images_removed_from_the_dataset_do_not_count(file):
    with pytest.raises(InputError, match="lists 3 images"):
        Quarantine(file, budget=2).add([(1, unreadable(1)), (1, unreadable(2)), (1, unreadable(3))], DATASET)
    fewer = DATASET.subset([0, 3, 4, 5])  # 1 and 2 are removed; index 2 is image 4 now
    resumed = Quarantine(file, budget=2)
    resumed.add([(2, Unreadable(2, 0, 0, "/images/4.jpg: truncated"))], fewer)
    assert [line["image_id"] for line in lines(file)] == [101, 102, 103, 104]
    with pytest.raises(InputError, match="lists 3 images"):
        resumed.add([(3, Unreadable(3, 0, 0, "/images/5.jpg: truncated"))], fewer)


def test_exceeded_budget_is_an_error_again_until_it_is_raised(file):
    with pytest.raises(InputError):
        Quarantine(file, budget=0).add([(1, unreadable(1))], DATASET)
    resumed = Quarantine(file, budget=0)
    resumed.add([], DATASET)
    with pytest.raises(InputError, match="lists 1 images"):
        resumed.add([(2, unreadable(1, epoch=1))], DATASET)
    Quarantine(file, budget=1).add([(2, unreadable(1, epoch=1))], DATASET)
    assert len(lines(file)) == 1


@pytest.mark.parametrize("left", [1, 20, -1])
def test_incomplete_last_line_is_removed_and_rewritten(file, left):
    Quarantine(file, budget=3).add([(1, unreadable(1)), (1, unreadable(2))], DATASET)
    whole = file.read_bytes()
    first, second = whole.splitlines(keepends=True)
    file.write_bytes(first + second[:left])
    resumed = Quarantine(file, budget=3)
    assert len(resumed) == 1 and file.read_bytes() == first
    resumed.add([(1, unreadable(2))], DATASET)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("content", ["hello\n", "[]\n", "3\n", '{"step": 1}\n', "\n"])
def test_file_that_is_not_a_list_of_unreadable_images_is_an_error(file, content):
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        Quarantine(file, budget=3)
    assert str(caught.value).startswith(f"{file}: not a list of unreadable images")
    assert file.read_text() == content


def test_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        Quarantine(tmp_path, budget=3)


def test_unwritable_list_still_counts_and_does_not_raise(tmp_path, caplog):
    quarantine = Quarantine(tmp_path / "nowhere" / "unreadable.jsonl", budget=1)
    quarantine.add([(1, unreadable(1))], DATASET)
    assert "could not be written: No such file or directory; /images/1.jpg is not listed there" in caplog.text
    with pytest.raises(InputError, match="2 images that cannot be read, expected at most 1"):
        quarantine.add([(2, unreadable(2))], DATASET)
