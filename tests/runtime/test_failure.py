"""Only the first rank to fail reports its failure, and all ranks exit."""

import os
import subprocess
import sys
import textwrap
import time

import pytest
import torch.distributed as dist

from retinanet.errors import InputError
from retinanet.runtime.failure import report_failure
from tests.helpers.processes import ENVIRONMENT, REPO

ONE_FAILS = """
    import sys, time
    from pathlib import Path
    from retinanet.runtime.distributed import rank
    from retinanet.engine.step import TrainStep
    from retinanet.errors import InputError
    from retinanet.cli.train import main

    folder, kind, *arguments = sys.argv[1:]
    original = TrainStep.__call__

    def failing(self, batches, step):
        if step == 3 and rank() == 1:
            Path(folder, "failed_at").write_text(str(time.time()))
            raise InputError("step 3 is rejected") if kind == "input" else ZeroDivisionError("planted")
        return original(self, batches, step)

    TrainStep.__call__ = failing
    sys.exit(main(["quickstart", "--output", folder + "/run", *arguments]))
"""


def raise_index_error(values: list[int]) -> int:
    return values[3]


def failure():
    try:
        raise_index_error([1, 2])
    except IndexError as error:
        return error


LOST = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:5104")


@pytest.mark.parametrize("folder_exists", [True, False])
def test_report_names_rank_step_images_and_line(tmp_path, capsys, folder_exists):
    folder = tmp_path if folder_exists else tmp_path / "gone"
    report_failure(dist.HashStore(), folder, failure(), rank=3, world_size=4, doing="training, step 120, images [4, 7]")
    printed = capsys.readouterr().err
    assert printed.startswith("process 4 of 4 (rank 3) failed; last activity: training, step 120, images [4, 7]")
    if folder_exists:
        report = (folder / "failure_rank3.txt").read_text()
        assert report.startswith(printed.partition(";")[0]) and "step 120, images [4, 7]\nTraceback" in report
        assert "return values[3]" in report and report.endswith("IndexError: list index out of range\n")
        assert str(folder / "failure_rank3.txt") in printed


def test_single_process_reports_its_activity(tmp_path, capsys):
    report_failure(None, tmp_path, failure(), rank=0, world_size=1, doing="training, step 3, images [1]")
    assert "the run failed; last activity: training, step 3, images [1]" in capsys.readouterr().err
    assert (tmp_path / "failure_rank0.txt").exists()


def test_lost_contact_names_no_rank_until_one_reports(tmp_path, capsys):
    store = dist.HashStore()
    for rank in (0, 2):
        with pytest.raises(InputError, match=rf"process {rank + 1} of 4 .* lost contact with another .*closed by peer"):
            report_failure(store, tmp_path, LOST, rank=rank, world_size=4, doing="training")
    report_failure(store, tmp_path, failure(), rank=1, world_size=4, doing="training")  # the cause
    with pytest.raises(InputError, match=r"^process 4 of 4 \(rank 3\) exits because process 2 of 4 \(rank 1\) failed"):
        report_failure(store, tmp_path, LOST, rank=3, world_size=4, doing="training")
    assert [path.name for path in tmp_path.iterdir()] == ["failure_rank1.txt"]


def test_later_failure_refers_to_the_first(tmp_path, capsys):
    store = dist.HashStore()
    report_failure(store, tmp_path, failure(), rank=1, world_size=4, doing="training")
    capsys.readouterr()
    with pytest.raises(
        InputError,
        match=r"process 1 of 4 .* because process 2 of 4 .* failed first .*own error: list index out of range",
    ):
        report_failure(store, tmp_path, failure(), rank=0, world_size=4, doing="training")
    assert [path.name for path in tmp_path.iterdir()] == ["failure_rank1.txt"]
    assert capsys.readouterr().err == ""


def test_input_error_leaves_no_traceback_file_on_any_rank(tmp_path, capsys):
    store = dist.HashStore()
    report_failure(store, tmp_path, InputError("no such image"), rank=1, world_size=4, doing="training")
    with pytest.raises(InputError, match=r"\(rank 1\) failed"):
        report_failure(store, tmp_path, failure(), rank=0, world_size=4, doing="training")
    report_failure(store, tmp_path, InputError("own message"), rank=2, world_size=4, doing="training")
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["input", "other"])
def test_failing_rank_stops_the_run_long_before_a_timeout(tiny_overrides, tmp_path, kind):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(ONE_FAILS))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *(str(program), str(tmp_path), kind, *tiny_overrides, "model.backbone.norm=frozen"),
    ]
    done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1 and (tmp_path / "failed_at").exists(), done.stderr[-3000:]
    assert time.time() - float((tmp_path / "failed_at").read_text()) < 300  # train.stall_timeout is 600
    report = sorted(path.name for path in (tmp_path / "run").glob("failure_rank*.txt"))
    if kind == "input":
        assert report == []
        assert "error: step 3 is rejected" in done.stderr
        assert "retinanet/engine/train.py" not in done.stderr  # no traceback
    else:
        assert report == ["failure_rank1.txt"]
        text = (tmp_path / "run/failure_rank1.txt").read_text()
        assert text.startswith("process 2 of 2 (rank 1) failed; last activity: training, step 3, images [")
        assert text.endswith("ZeroDivisionError: planted\n")
