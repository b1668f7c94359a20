"""The report at the end of a run: its content, and failures that must not fail the run."""

import logging
from types import SimpleNamespace

import pytest

from retinanet.config import Config, TrainConfig
from retinanet.engine import run_report as module
from retinanet.engine.evaluate import Evaluation
from retinanet.engine.run_report import write_run_report
from retinanet.evaluation.coco import score_detections
from retinanet.runtime.activity import Activity
from tests.helpers.scored_sets import two_images


@pytest.fixture
def write(tmp_path, caplog):
    """Write the report of a run of ten steps, and return the log."""
    dataset, detections = two_images()
    evaluation = Evaluation(score_detections(dataset, detections), detections, {"loss": 1.0})
    run = SimpleNamespace(
        cfg=Config(train=TrainConfig(steps=10)),
        folder=tmp_path,
        val_data=dataset,
        num_steps=10,
        state=SimpleNamespace(step=10),
    )

    def write(signal_name=None):
        stop, caplog.records[:] = SimpleNamespace(signal_name=signal_name), []
        with caplog.at_level(logging.INFO, logger=module.__name__):
            write_run_report(run, evaluation, 8, stop=stop, activity=Activity())
        return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == module.__name__]

    return write


def test_page_is_written_and_its_path_is_logged(write, tmp_path):
    assert write() == [("INFO", f"report: {tmp_path / 'report.html'}")]
    assert "after 8 of 10 steps" in (tmp_path / "report.html").read_text()
    assert write() == [("INFO", f"report: {tmp_path / 'report.html'}")]  # replaces its own


def test_file_of_another_origin_is_kept(write, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    ((level, message),) = write()
    assert level == "WARNING" and "was not written by retinanet eval" in message and "the run is complete" in message
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("unexpected"), OSError(28, "No space left on device")])
def test_failure_is_one_warning(write, monkeypatch, tmp_path, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(module, "write_report", fail)
    ((level, message),) = write()
    assert level == "WARNING" and f"retinanet eval {tmp_path} --report FILE.html" in message
    assert (str(error) or "MemoryError") in message and not (tmp_path / "report.html").exists()


def test_stop_request_ends_the_report(write, tmp_path):
    ((level, message),) = write(signal_name="SIGTERM")
    assert level == "INFO" and message.startswith("no report, because of SIGTERM; to write it: retinanet eval ")
    assert not (tmp_path / "report.html").exists()


def test_very_many_detections_are_left_to_eval(write, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MAX_DETECTIONS", 4)  # there are five
    ((level, message),) = write()
    assert level == "INFO" and "would take minutes for 5 detections" in message
    assert not (tmp_path / "report.html").exists()


def test_many_detections_have_fewer_resamples(write, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MAX_RESAMPLED", 5 * 37)
    write()
    assert "37 resamples" in (tmp_path / "report.html").read_text()
