import itertools
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from retinanet.checkpoint.file import DamagedCheckpoint
from retinanet.checkpoint.folder import CheckpointFolder, read_checkpoint
from retinanet.errors import InputError


def content(value: float) -> dict:
    return {"model": {"weight": torch.full((1000,), value)}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def step_files(*steps: int) -> list[str]:
    return sorted(name for step in steps for name in (f"step_{step:08d}.pt", f"step_{step:08d}.pt.sha256"))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def test_what_is_saved_is_read(tmp_path):
    path = CheckpointFolder(tmp_path, keep=2).save(7, content(1.5))
    read = read_checkpoint(path)
    assert read["step"] == 7
    assert torch.equal(read["model"]["weight"], torch.full((1000,), 1.5))
    assert path.name == "step_00000007.pt"
    assert (tmp_path / "last.pt").resolve() == path


def test_the_newest_and_the_best_stay(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in range(1, 6):
        folder.save(step, content(step))
        if step == 2:
            folder.mark_best(2)
    assert names(tmp_path) == ["best.pt", "last.pt", *step_files(2, 4, 5)]
    assert read_checkpoint(tmp_path / "best.pt")["step"] == 2
    assert read_checkpoint(tmp_path / "last.pt")["step"] == 5
    folder.mark_best(5)
    assert names(tmp_path) == ["best.pt", "last.pt", *step_files(4, 5)]


def test_files_of_others_stay(tmp_path):
    others = ["step_best_one.pt", "step_1.pt", "step_00000001.pt.damaged", "notes.partial", "model.pt.partial", "x.pt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.open_for_writing()
    for step in (1, 2, 100_000_000, 99_999_999):
        folder.save(step, content(step))
    assert names(tmp_path) == sorted([*others, "last.pt", *step_files(100_000_000)])
    assert folder.last_whole()[0].name == "step_100000000.pt"
    assert all((tmp_path / name).read_text() == "mine" for name in others)


def test_opening_removes_what_was_half_written(tmp_path):
    folder = CheckpointFolder(tmp_path / "new" / "checkpoints", keep=1)
    folder.open_for_writing()
    folder.save(1, content(1))
    before = names(folder.folder)
    for name in ("step_00000002.pt.partial", "step_00000002.pt.sha256.partial", "best.pt.partial"):
        (folder.folder / name).write_text("half")
    (folder.folder / "last.pt.partial").symlink_to("step_00000002.pt")
    CheckpointFolder(folder.folder, keep=1).last_whole()  # reading leaves them
    assert len(names(folder.folder)) == len(before) + 4
    folder.open_for_writing()
    assert names(folder.folder) == before


def test_opening_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/checkpoints: cannot be written to: "):
        CheckpointFolder(tmp_path / "file" / "checkpoints", keep=1).open_for_writing()


def test_a_step_saved_once_more_replaces_the_first(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(1, content(1.0))
    folder.save(1, content(2.0))
    assert names(tmp_path) == ["last.pt", *step_files(1)]
    assert read_checkpoint(tmp_path / "last.pt")["model"]["weight"][0] == 2.0


def test_a_checksum_without_its_file_goes_with_the_old_ones(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    (tmp_path / "step_00000003.pt.sha256").write_text("left by a kill between the two removals")
    folder.save(4, content(4.0))
    assert names(tmp_path) == ["last.pt", *step_files(4)]


def test_content_that_cannot_be_read_again_leaves_nothing(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(1, content(1.0))
    with pytest.raises(TypeError, match=r"step_00000002.*Path"):
        folder.save(2, {"output": tmp_path})
    assert names(tmp_path) == ["last.pt", *step_files(1)]


# ---- the last whole one


def test_an_empty_folder_and_none_have_no_checkpoint(tmp_path):
    assert CheckpointFolder(tmp_path, keep=1).last_whole() == (None, None)
    assert CheckpointFolder(tmp_path / "none", keep=1).last_whole() == (None, None)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off])
def test_a_damaged_newest_is_set_aside_and_the_one_before_is_used(tmp_path, damage, caplog):
    folder = CheckpointFolder(tmp_path, keep=3)
    for step in (1, 2, 3):
        folder.save(step, content(step))
    folder.mark_best(3)
    damage(tmp_path / "step_00000003.pt")
    damaged = (tmp_path / "step_00000003.pt").read_bytes()

    path, read = folder.last_whole()

    assert (path.name, read["step"]) == ("step_00000002.pt", 2)
    aside = ["step_00000003.pt.damaged", "step_00000003.pt.damaged.sha256"]
    assert names(tmp_path) == sorted(["last.pt", *step_files(1, 2), *aside])  # best.pt pointed nowhere
    assert (tmp_path / aside[0]).read_bytes() == damaged
    assert os.readlink(tmp_path / "last.pt") == "step_00000002.pt"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "step_00000003.pt: is damaged, its checksum differs from step_00000003.pt.sha256" in caplog.text
    assert "renamed to step_00000003.pt.damaged; going on from step_00000002.pt" in caplog.text
    assert "best.pt: removed, since step_00000003.pt, which it pointed at, is gone" in caplog.text
    with pytest.raises(DamagedCheckpoint, match="its checksum differs"):
        read_checkpoint(tmp_path / aside[0])

    # The run writes step 3 again, and that is damaged as well: the first stays.
    folder.save(3, content(3.5))
    damage(tmp_path / "step_00000003.pt")
    assert folder.last_whole()[0].name == "step_00000002.pt"
    again = ["step_00000003.pt.damaged.2", "step_00000003.pt.damaged.2.sha256"]
    assert names(tmp_path) == sorted(["last.pt", *step_files(1, 2), *aside, *again])
    assert (tmp_path / aside[0]).read_bytes() == damaged
    # They do not count among those to keep, and are never removed.
    for step in (4, 5, 6):
        folder.save(step, content(step))
    assert names(tmp_path) == sorted(["last.pt", *step_files(4, 5, 6), *aside, *again])


def test_several_damaged_ones_are_set_aside_and_a_best_one_stays(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=4)
    for step in (1, 2, 3, 4):
        folder.save(step, content(step))
    folder.mark_best(1)
    cut_off(tmp_path / "step_00000004.pt")
    flip_a_bit(tmp_path / "step_00000003.pt.sha256")
    assert folder.last_whole()[0].name == "step_00000002.pt"
    assert [path.name for path in folder.files()] == ["step_00000001.pt", "step_00000002.pt"]
    assert read_checkpoint(tmp_path / "best.pt")["step"] == 1


def test_a_damaged_older_one_is_left_alone(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(1, content(1.0))
    folder.save(2, content(2.0))
    cut_off(tmp_path / "step_00000001.pt")
    before = names(tmp_path)
    assert folder.last_whole()[0].name == "step_00000002.pt"
    assert names(tmp_path) == before


def test_where_none_is_whole_nothing_is_moved(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2):
        folder.save(step, content(step))
        cut_off(tmp_path / f"step_{step:08d}.pt")
    before = names(tmp_path)
    for _ in range(2):  # never a silent start from the beginning
        with pytest.raises(
            InputError, match=r"no whole checkpoint, damaged are step_00000001\.pt, step_00000002\.pt; "
        ):
            folder.last_whole()
    assert names(tmp_path) == before


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off])
def test_a_newest_one_whose_checksum_was_deleted_is_checked_by_its_own_sums(tmp_path, damage):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(1, content(1.0))
    path = folder.save(2, content(2.0))
    path.with_name(f"{path.name}.sha256").unlink()
    assert folder.last_whole()[0] == path
    damage(path)
    assert folder.last_whole()[0].name == "step_00000001.pt"
    assert names(tmp_path) == sorted(["last.pt", *step_files(1), "step_00000002.pt.damaged"])


def test_a_newest_one_that_is_not_ours_is_refused_and_not_moved(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(1, content(1.0))
    torch.save({"model": {}}, tmp_path / "step_00000002.pt")
    before = names(tmp_path)
    with pytest.raises(InputError, match="holds something else"):
        folder.last_whole()
    assert names(tmp_path) == before


# ---- kills

WRITER = """
import sys, torch
from pathlib import Path
from retinanet.checkpoint.folder import CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]), keep=2)
step = 0
while True:
    step += 1
    for _ in range(int(sys.argv[2])):
        folder.save(step, {"model": {"weight": torch.full((2_000_000,), float(step))}})
    print(step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("delay", [0.0, 0.004, 0.011, 0.023])
def test_a_kill_in_the_middle_of_writing_leaves_a_whole_last_checkpoint(tmp_path, delay, times):
    """Also where each step is saved several times over."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), str(times)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(3):
        written = int(writer.stdout.readline())
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    last = read_checkpoint(tmp_path / "last.pt")
    assert last["step"] >= written
    assert torch.equal(last["model"]["weight"], torch.full((2_000_000,), float(last["step"])))
    path, newest = CheckpointFolder(tmp_path, keep=2).last_whole()
    assert path == max(tmp_path.glob("step_????????.pt"))  # none had to be passed over
    assert newest["step"] >= last["step"]


def killed_after(changes: int, action: Callable[[], None]) -> bool:
    """Run in a child that kills itself after so many changes of the disk. Whether it came to that."""
    child = os.fork()
    if child == 0:

        def killing(function: Callable) -> Callable:
            def call(*arguments, **keywords):
                nonlocal changes
                result = function(*arguments, **keywords)
                changes -= 1
                if changes == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for name in ("replace", "rename", "fsync", "unlink", "symlink"):
            setattr(os, name, killing(getattr(os, name)))
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("step", [1, 2], ids=["the same step once more", "the next step"])
def test_a_kill_between_any_two_changes_of_the_disk_leaves_whole_checkpoints(tmp_path, step):
    for changes in itertools.count(1):
        path = tmp_path / str(changes)
        folder = CheckpointFolder(path, keep=1)
        folder.save(1, content(1.0))
        folder.mark_best(1)
        killed = killed_after(changes, lambda folder=folder: folder.mark_best(folder.save(step, content(2.0)) and step))
        for link in ("last.pt", "best.pt"):
            assert read_checkpoint(path / link)["model"]["weight"][0] in (1.0, 2.0)
        assert folder.last_whole()[0] == folder.files()[-1]
        assert not list(path.glob("*.damaged"))
        # And the next run goes on as if nothing had been.
        folder.open_for_writing()
        folder.save(3, content(3.0))
        folder.mark_best(3)
        assert names(path) == ["best.pt", "last.pt", *step_files(3)]
        if not killed:
            break
    assert changes > 10


def test_a_kill_while_damaged_ones_are_set_aside_loses_nothing(tmp_path):
    for changes in itertools.count(1):
        path = tmp_path / str(changes)
        folder = CheckpointFolder(path, keep=3)
        for step in (1, 2, 3):
            folder.save(step, content(step))
        folder.mark_best(3)
        cut_off(path / "step_00000003.pt")
        flip_a_bit(path / "step_00000002.pt")
        killed = killed_after(changes, lambda folder=folder: folder.last_whole())
        assert folder.last_whole()[0].name == "step_00000001.pt"
        assert os.readlink(path / "last.pt") == "step_00000001.pt"
        assert {"step_00000002.pt.damaged", "step_00000003.pt.damaged"} <= set(names(path))
        assert not (path / "best.pt").is_symlink()
        if not killed:
            break
    assert changes > 6
