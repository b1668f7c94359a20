import json
import sqlite3
from contextlib import closing

import pytest

from tests.helpers.tracked_runs import LOGGED, follow_interrupted_run, follow_resumed_run


def test_resumed_run_continues_the_same_record(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is imported
    pytest.importorskip("trackio", reason="Trackio is an optional tracker")
    from retinanet.tracking.trackio_tracker import TrackioTracker

    folder = tmp_path / "cells"
    folder.mkdir()
    follow_interrupted_run(TrackioTracker(), folder)
    follow_resumed_run(TrackioTracker(), folder)

    with closing(sqlite3.connect(tmp_path / "trackio" / "retinanet.db")) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        (config,) = {config for (config,) in database.execute("SELECT config FROM configs")}
    assert json.loads(config)["train.batch_size"] == 4
    assert {name for name, _, _ in rows} == {(folder / "tracking" / "trackio.txt").read_text().strip()}
    logged = [(step, json.loads(metrics)) for _, step, metrics in rows]
    for name, expected in LOGGED.items():
        assert sorted((step, metrics[name]) for step, metrics in logged if name in metrics) == expected
