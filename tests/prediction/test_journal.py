"""The journal keeps complete batches even if the process is killed."""

import pytest

from retinanet.errors import InputError
from retinanet.prediction.journal import JOURNAL_FILE, Journal

SETTINGS = {"checkpoint": ["abc"], "score threshold": 0.3}


def record(path: str, score: float = 0.5) -> dict:
    return {"path": path, "name": path, "stamp": [1, 2], "scores": [score]}


@pytest.fixture
def journal(tmp_path):
    """A journal with two batches."""
    journal = Journal(tmp_path)
    journal.start(SETTINGS, ["a.png", "b.png"])
    journal.append([record("a", 0.1), record("b", 0.2)])
    journal.append([{"path": "c", "name": "c", "stamp": None, "error": "damaged"}])
    yield journal
    journal.close()


def test_everything_is_read_back(journal, tmp_path):
    journal.claim(["c.png", "a.png"])
    journal.close()
    again = Journal(tmp_path)
    assert again.settings == SETTINGS and again.names == {"a.png", "b.png", "c.png"}
    assert len(again) == 3 and "a" in again and "d" not in again
    assert again.record("b") == record("b", 0.2) and again.record("d") is None
    assert again.entry("c").failed and not again.entry("a").failed
    assert [found["path"] for found in again.records()] == ["a", "b", "c"]
    again.close()


def test_the_last_result_of_an_image_counts(journal, tmp_path):
    journal.append([record("c", 0.9)])
    journal.close()
    assert Journal(tmp_path).record("c")["scores"] == [0.9]


def test_every_truncation_keeps_the_complete_batches(journal, tmp_path):
    journal.close()
    file = tmp_path / JOURNAL_FILE
    content = file.read_bytes()
    header = sum(len(line) for line in content.splitlines(keepends=True)[:2])
    first_batch = content.index(b'{"batch": 2}\n') + len(b'{"batch": 2}\n')
    for length in range(header, len(content)):
        file.write_bytes(content[:length])
        cut = Journal(tmp_path)
        assert len(cut) == (0 if length < first_batch else 2), length
        cut.append([record("new")])
        cut.close()
        again = Journal(tmp_path)
        assert again.record("new") == record("new")
        assert len(again) == (1 if length < first_batch else 3)
        again.close()


def test_garbage_after_a_power_failure_is_removed(journal, tmp_path):
    journal.close()
    with open(tmp_path / JOURNAL_FILE, "ab") as file:
        file.write(b"\0" * 500 + b"\n")
    again = Journal(tmp_path)
    assert len(again) == 3
    again.append([record("d")])
    again.close()
    assert b"\0" not in (tmp_path / JOURNAL_FILE).read_bytes()
    assert len(Journal(tmp_path)) == 4


def part(start: int, *frames: int, ended: bool = False, **more) -> dict:
    """The record of a batch of frames of the video v."""
    results = [{"frame": frame} for frame in frames]
    return {"path": "v", "name": "v", "stamp": [1], "start": start, "frames": results, "ended": ended, **more}


def test_results_of_a_video_are_collected_batch_by_batch(journal, tmp_path):
    journal.append([part(0, 0, 1)])
    journal.append([part(2, 2)])
    for opened in (journal, Journal(tmp_path)):
        entry = opened.entry("v")
        assert (entry.num_frames, entry.ended, entry.failed) == (3, False, False)
        assert [found["start"] for found in opened.parts("v")] == [0, 2]
    journal.append([part(3, ended=True, error="damaged")])
    entry = journal.entry("v")
    assert (len(journal), entry.num_frames, entry.ended, entry.failed) == (4, 3, True, True)
    assert journal.record("v")["error"] == "damaged"
    assert [found["path"] for found in journal.records()] == ["a", "b", "c", "v", "v", "v"]
    journal.append([part(0, 5, ended=True)])  # another file of this name
    for opened in (journal, Journal(tmp_path)):
        assert [found["frames"] for found in opened.parts("v")] == [[{"frame": 5}]]
        assert (opened.entry("v").num_frames, opened.entry("v").failed) == (1, False)
    assert list(journal.parts("gone")) == []


def test_a_killed_process_loses_only_the_incomplete_batch_of_a_video(journal, tmp_path):
    journal.append([part(0, 0, 1)])
    complete = journal.path.stat().st_size
    journal.append([part(2, 2, 3)])
    journal.close()
    content = journal.path.read_bytes()
    for length in (complete, complete + 10, len(content) - 1):
        journal.path.write_bytes(content[:length])
        cut = Journal(tmp_path)
        assert cut.entry("v").num_frames == 2
        cut.append([part(2, 9)])
        cut.close()
        assert [found["frames"][0]["frame"] for found in Journal(tmp_path).parts("v")] == [0, 9]


def test_starting_over_keeps_the_names_of_our_files(journal, tmp_path):
    journal.start({"other": 1}, ["new.png"])
    assert len(journal) == 0
    journal.close()
    again = Journal(tmp_path)
    assert again.names == {"a.png", "b.png", "new.png"} and again.settings == {"other": 1}


def test_folder_without_a_journal(tmp_path):
    assert Journal(tmp_path).names == set() and Journal(tmp_path / "gone").names == set()
    assert Journal(tmp_path).settings is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ['{"image": 1}\n', "hello\n", "[1]\n", '{"retinanet predict": 99}\n'])
def test_other_files_and_journals_of_other_versions_are_rejected(tmp_path, content):
    (tmp_path / JOURNAL_FILE).write_text(content)
    with pytest.raises(InputError, match="choose another --output"):
        Journal(tmp_path)


def test_full_disk(small_disk):
    journal = Journal(small_disk)
    journal.start(SETTINGS, [])
    with pytest.raises(InputError, match="No space left on device; the results so far are kept"):
        for number in range(1000):
            journal.append([record(f"{number}" * 2000)])
    recorded = len(journal)
    assert recorded > 0
    journal._file.close()
    journal._file = None
    assert len(Journal(small_disk)) == recorded
