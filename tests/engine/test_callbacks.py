import logging
from types import SimpleNamespace

import pytest

import retinanet
from retinanet.engine import callbacks as module
from retinanet.engine.callbacks import Callback, Callbacks
from retinanet.errors import InputError
from tests.helpers.custom_parts import NoiseDataset, config, parts
from tests.helpers.metrics import metrics_without_times

pytestmark = pytest.mark.usefixtures("restore_process_settings")


class Recording(Callback):
    """Records the events of a run."""

    def __init__(self):
        self.events = []

    def on_start(self, folder, cfg, step):
        self.events.append(("start", folder.name, cfg.train.steps, step))

    def on_log(self, step, metrics):
        self.events.append(("log", step, metrics["loss"]))

    def on_eval(self, step, metrics, detections):
        self.events.append(("eval", step, metrics["loss"], sorted(detections)))

    def on_end(self, result):
        self.events.append(("end", result.step))

    def on_error(self, error):
        self.events.append(("error", str(error)))


class Broken(Callback):
    """Fails whenever it is called."""

    def on_log(self, step, metrics):
        raise ConnectionError("no network")

    def on_end(self, result):
        raise ConnectionError("no network")


def test_events_of_a_run_in_order(tmp_path):
    recording = Recording()
    retinanet.train(config(), tmp_path / "run", **parts(), callbacks=[recording])
    lines = metrics_without_times(tmp_path / "run")
    of_files = [
        ("log", line["step"], line["loss"]) if line["kind"] == "train" else ("eval", line["step"], line["loss"], [0, 1])
        for line in lines
    ]
    assert [kind for kind, *_ in of_files] == ["log", "log", "eval", "log", "log", "eval"]
    assert recording.events == [("start", "run", 4, 0), *of_files, ("end", 4)]


def test_failing_callback_is_logged_once_and_changes_nothing(tmp_path, caplog):
    other = Recording()
    with caplog.at_level(logging.WARNING):
        retinanet.train(config(), tmp_path / "run", **parts(), callbacks=[Broken(), other])
    assert other.events[-1] == ("end", 4)
    failures = [record for record in caplog.records if "Broken" in record.getMessage()]
    first, last = failures
    assert "Broken.on_log failed; the run continues" in first.getMessage() and first.exc_info
    assert last.getMessage().endswith("Broken failed 5 time(s) in this run")  # four log lines and the end


class Unreadable(NoiseDataset):
    """A validation set whose images have a bug."""

    def read_image(self, index):
        raise ZeroDivisionError("a bug")


def test_failure_of_the_run_is_reported_and_raised(tmp_path):
    recording = Recording()
    with pytest.raises(ZeroDivisionError):
        retinanet.train(config(), tmp_path / "run", **parts() | {"val_dataset": Unreadable()}, callbacks=[recording])
    assert recording.events[-1] == ("error", "a bug")


def test_methods_are_optional():
    calls = []
    called = Callbacks([SimpleNamespace(on_log=lambda step, metrics: calls.append((step, metrics)))])
    called.start(None, None, 0)
    called.log(3, {"loss": 1.0})
    called.end(None)
    assert calls == [(3, {"loss": 1.0})]


@pytest.mark.parametrize("wrong", [object(), Recording, print])
def test_object_without_methods_is_refused(wrong):
    with pytest.raises(InputError, match=r"expected an object with on_start, on_log, on_eval, on_end, on_error"):
        Callbacks([wrong])


def test_other_processes_have_no_callbacks(monkeypatch):
    monkeypatch.setattr(module, "is_main", lambda: False)
    recording = Recording()
    Callbacks([recording]).log(1, {"loss": 1.0})
    assert recording.events == []
