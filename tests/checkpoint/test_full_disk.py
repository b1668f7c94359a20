"""Saving to a full or unwritable disk."""

import logging
import os

from retinanet.checkpoint.file import read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.writer import CheckpointWriter
from tests.helpers.checkpoints import filled, names, step_files
from tests.helpers.processes import Program


def test_training_continues_on_a_full_disk(small_disk, caplog):
    # A checkpoint of 60,000 floats takes 240 kB: four fit on the disk, a fifth does not.
    with CheckpointWriter(CheckpointFolder(small_disk, keep=5)) as writer:
        for step in (1, 2, 3, 4):
            writer.save(filled(step, size=60_000))
        writer.mark_best(2)
        writer.wait()
        assert (writer.failed_saves, caplog.text) == (0, "")
        intact = ["best.pt", "last.pt", *step_files(1, 2, 3, 4)]
        assert names(small_disk) == intact

        writer.save(filled(5, size=60_000))
        writer.mark_best(5)
        writer.wait()
        assert writer.failed_saves == 1
        assert names(small_disk) == intact
        for step in (1, 2, 3, 4):
            assert read_checkpoint(small_disk / f"step_{step:08d}.pt").state["model"]["weight"][-1] == step
        assert read_checkpoint(small_disk / "last.pt").step == 4
        assert read_checkpoint(small_disk / "best.pt").step == 2
        failed, best = caplog.records
        assert (failed.levelno, best.levelno) == (logging.WARNING, logging.WARNING)
        for part in (
            f"{small_disk}/step_00000005.pt: could not save the checkpoint: ",
            "No space left on device",
            "failed saves: 1",
            "Intact: step_00000001.pt, step_00000002.pt, step_00000003.pt, step_00000004.pt.",
            f"Free disk space in {small_disk}",
        ):
            assert part in failed.getMessage()
        assert best.getMessage() == (
            f"{small_disk}/best.pt: not updated: step 5 is better, but saving step 5 failed; "
            "best.pt still points to step_00000002.pt"
        )

        writer.save(filled(6, size=60_000))
        writer.wait()
        assert writer.failed_saves == 2

        (small_disk / "step_00000001.pt").unlink()  # the user frees disk space
        writer.save(filled(7, size=60_000))
        writer.mark_best(7)
        writer.wait()
        assert writer.failed_saves == 2
        assert read_checkpoint(small_disk / "best.pt").step == 7
        assert read_checkpoint(small_disk / "last.pt").step == 7


def test_older_checkpoint_stays_intact_wherever_the_disk_becomes_full(small_disk):
    """Includes the case where the file still fits but its checksum does not. The disk allocates space in pages."""
    folder = CheckpointFolder(small_disk, keep=1)
    saved = []
    for free_pages in range(1, 20):
        folder.save(filled(1, size=10_000))
        page = os.statvfs(small_disk).f_bsize
        filler = small_disk / "filler"
        filler.write_bytes(bytes(page * (os.statvfs(small_disk).f_bavail - free_pages)))
        try:
            folder.save(filled(2, size=10_000))
            saved.append(free_pages)
        except OSError:
            assert names(small_disk) == ["filler", "last.pt", *step_files(1)], free_pages
            assert read_checkpoint(small_disk / "last.pt").step == 1
        filler.unlink()
        for path in folder.files():
            path.unlink()
    # In pages of 4096 bytes: 11 for 40 kB of weights, the config and the directory of the archive, 1 for the checksum.
    if page == 4096:
        assert saved == list(range(12, 20))


LIMITED = """
import logging.handlers, resource, sys, torch
from pathlib import Path
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.writer import CheckpointWriter
from tests.helpers.checkpoints import checkpoint_of
warnings = logging.handlers.BufferingHandler(100)  # the limit is also that of the file of the standard error
logging.getLogger().addHandler(warnings)
for limit in sys.argv[2:]:
    with CheckpointWriter(CheckpointFolder(Path(sys.argv[1], limit), keep=5)) as writer:
        writer.save(checkpoint_of(1, weight=torch.ones(10_000)))
        writer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        writer.save(checkpoint_of(2, weight=torch.ones(10_000)))
        writer.mark_best(2)
        writer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        writer.save(checkpoint_of(3, weight=torch.ones(10_000)))
        writer.wait()
        assert writer.failed_saves == 1
for record in warnings.buffer:
    print(record.levelname, record.getMessage())
"""


def test_file_size_limit_is_handled_like_a_full_disk(tmp_path):
    limits = ["0", "100", "5000", "40500"]
    program = Program(LIMITED, [str(tmp_path), *limits])
    assert program.wait(timeout=60) == 0, program.errors()
    warnings = program.output().splitlines()
    for limit, failed, best in zip(limits, warnings[::2], warnings[1::2], strict=True):
        folder = tmp_path / limit
        assert failed.startswith(
            f"WARNING {folder}/step_00000002.pt: could not save the checkpoint: [Errno 27] File too large"
        )
        assert "Intact: step_00000001.pt. " in failed
        assert best.endswith("best.pt: not updated: step 2 is better, but saving step 2 failed; best.pt does not exist")
        assert names(folder) == ["last.pt", *step_files(1, 3)]
        assert read_checkpoint(folder / "last.pt").step == 3


def test_removed_folder_is_recreated(tmp_path):
    folder = tmp_path / "checkpoints"
    with CheckpointWriter(CheckpointFolder(folder, keep=2)) as writer:
        folder.rmdir()
        folder.write_text("in the way")
        writer.save(filled(1))
        writer.wait()
        assert writer.failed_saves == 1
        folder.unlink()
        writer.save(filled(2))
    assert names(folder) == ["last.pt", *step_files(2)]
