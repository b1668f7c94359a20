import json
import logging

import numpy as np
import pytest

from retinanet.data.unreadable import Quarantine
from retinanet.errors import InputError
from retinanet.formats.coco import Record
from retinanet.structures import Unreadable

NOTHING = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
RECORDS = [Record(f"/images/{number}.jpg", 100 + number, 48, 64, *NOTHING) for number in range(10)]


def bad(index, *, epoch=0, replaced_by=9):
    return Unreadable(index, epoch, replaced_by, f"/images/{index}.jpg: cut off")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "unreadable.jsonl"


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_each_image_is_written_down_once(file, caplog):
    quarantine = Quarantine(file, budget=5)
    quarantine.add(0, (), RECORDS)
    assert not file.exists() and len(quarantine) == 0
    with caplog.at_level(logging.WARNING):
        quarantine.add(3, (bad(1), bad(4, replaced_by=2)), RECORDS)
        quarantine.add(7, (bad(1, epoch=1, replaced_by=5),), RECORDS)
        quarantine.add(9, (bad(1, epoch=2), bad(6)), RECORDS)
    assert len(quarantine) == 3
    assert lines(file) == [
        {
            "path": f"/images/{index}.jpg",
            "image_id": 100 + index,
            "reason": f"/images/{index}.jpg: cut off",
            "step": step,
            "replaced_by": f"/images/{other}.jpg",
        }
        for index, step, other in ((1, 3, 9), (4, 3, 2), (6, 9, 9))
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "step 3: /images/1.jpg: cut off; /images/9.jpg is used in its place",
        "step 3: /images/4.jpg: cut off; /images/2.jpg is used in its place",
        "step 9: /images/6.jpg: cut off; /images/9.jpg is used in its place",
    ]


def test_more_than_the_budget_ends_the_run_and_is_written_down(file):
    quarantine = Quarantine(file, budget=2)
    quarantine.add(1, (bad(1), bad(2)), RECORDS)
    quarantine.add(2, (bad(2, epoch=1), bad(1, epoch=1)), RECORDS)  # the same ones: still two
    with pytest.raises(InputError) as caught:
        quarantine.add(5, (bad(3), bad(4)), RECORDS)
    assert str(caught.value).startswith(f"{file}: lists 4 images that cannot be read, expected at most 2 ")
    assert "data.max_unreadable" in str(caught.value)
    assert [line["image_id"] for line in lines(file)] == [101, 102, 103, 104]


def test_no_budget_allows_none(file):
    quarantine = Quarantine(file, budget=0)
    quarantine.add(1, (), RECORDS)
    with pytest.raises(InputError, match=r"lists 1 images .* at most 0"):
        quarantine.add(2, (bad(1),), RECORDS)


def test_a_resumed_run_goes_on_counting(file):
    Quarantine(file, budget=3).add(1, (bad(1), bad(2)), RECORDS)
    resumed = Quarantine(file, budget=3)
    assert len(resumed) == 2
    resumed.add(1, (bad(1), bad(3)), RECORDS)  # the same step once more, as after a kill
    assert [line["image_id"] for line in lines(file)] == [101, 102, 103]
    with pytest.raises(InputError, match="lists 4 images"):
        resumed.add(2, (bad(4),), RECORDS)


def test_what_is_known_is_refused_again_after_the_budget_and_not_once_it_is_mended(file):
    with pytest.raises(InputError):
        Quarantine(file, budget=0).add(1, (bad(1),), RECORDS)
    resumed = Quarantine(file, budget=0)
    resumed.add(1, (), RECORDS)
    with pytest.raises(InputError, match="lists 1 images"):
        resumed.add(2, (bad(1, epoch=1),), RECORDS)
    Quarantine(file, budget=1).add(2, (bad(1, epoch=1),), RECORDS)
    assert len(lines(file)) == 1


@pytest.mark.parametrize("left", [1, 20, -1])
def test_cut_off_last_line_is_written_again(file, left):
    Quarantine(file, budget=3).add(1, (bad(1), bad(2)), RECORDS)
    whole = file.read_bytes()
    first, second = whole.splitlines(keepends=True)
    file.write_bytes(first + second[:left])
    resumed = Quarantine(file, budget=3)
    assert len(resumed) == 1 and file.read_bytes() == first
    resumed.add(1, (bad(2),), RECORDS)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("content", ["hello\n", "[]\n", "3\n", '{"step": 1}\n', "\n"])
def test_other_files_are_refused(file, content):
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        Quarantine(file, budget=3)
    assert str(caught.value).startswith(f"{file}: is no list of unreadable images")
    assert file.read_text() == content


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        Quarantine(tmp_path, budget=3)


def test_a_list_that_cannot_be_written_ends_no_run_and_counts_all_the_same(tmp_path, caplog):
    quarantine = Quarantine(tmp_path / "nowhere" / "unreadable.jsonl", budget=1)
    quarantine.add(1, (bad(1),), RECORDS)
    assert "CANNOT BE WRITTEN: No such file or directory. It lacks /images/1.jpg" in caplog.text
    with pytest.raises(InputError, match="2 images that cannot be read, expected at most 1"):
        quarantine.add(2, (bad(2),), RECORDS)
