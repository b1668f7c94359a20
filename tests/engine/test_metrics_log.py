import contextlib
import subprocess
import sys

import pytest

from retinanet.engine import metrics_log
from retinanet.engine.metrics_log import MetricsLog
from retinanet.errors import InputError
from tests.helpers.metrics import read_metrics


def test_lines_are_json_with_nan_as_null(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("train", 1, {"loss": 0.5})
    log.write("eval", 1, {"AP": float("nan")})
    log.close()
    assert read_metrics(tmp_path) == [
        {"kind": "train", "step": 1, "loss": 0.5},
        {"kind": "eval", "step": 1, "AP": None},
    ]


def test_resuming_removes_lines_after_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": float(step)})
        log.write("eval", step, {"AP": 0.0})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # a line truncated by a kill
    log = MetricsLog(tmp_path, resumed_at=2)
    log.write("eval", 2, {"AP": 1.0})
    log.write("train", 3, {"loss": 30.0})
    log.close()
    lines = [(line["kind"], line["step"]) for line in read_metrics(tmp_path)]
    assert lines == [("train", 1), ("eval", 1), ("train", 2), ("eval", 2), ("train", 3)]


def fill(disk):
    """Fill a disk to its last byte, and return the file that fills it."""
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    return disk / "filler"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_lines_are_kept_until_a_full_disk_has_space(small_disk, caplog):
    log = MetricsLog(small_disk)
    log.write("train", 1, {"loss": 1.0})
    filler = fill(small_disk)
    for step in range(2, 200):  # more lines than fit into the last page of the file
        log.write("train", step, {"loss": 1.0})
    steps = [line["step"] for line in read_metrics(small_disk)]
    assert steps == list(range(1, len(steps) + 1)) and 1 < len(steps) < 199  # all lines are complete
    assert "metrics.jsonl: cannot be written" in caplog.text
    filler.unlink()
    log.write("train", 200, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(small_disk)] == list(range(1, 201))
    log.close()


def test_lines_are_read_until_the_one_that_was_cut_off(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n[]\n{"kind": "eval"}\n{"kind": "tr')
    assert metrics_log.read_metrics(tmp_path) == [{"kind": "train", "step": 1}]
    assert metrics_log.read_metrics(tmp_path / "none") == []
    (tmp_path / "folder" / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be read"):
        metrics_log.read_metrics(tmp_path / "folder")


def test_reading_metrics_does_not_import_torch():
    program = "import sys, retinanet.engine.metrics_log; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
