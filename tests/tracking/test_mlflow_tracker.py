import math

import pytest

from retinanet.tracking.mlflow_tracker import MlflowTracker
from tests.helpers.tracked_runs import LOGGED, follow_interrupted_run, follow_resumed_run

mlflow = pytest.importorskip("mlflow", reason="MLflow is an optional tracker")


def test_resumed_run_continues_the_same_record(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the database backends need more than mlflow-skinny
    monkeypatch.setattr(mlflow, "get_tracking_uri", mlflow.get_tracking_uri)
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    folder = tmp_path / "cells"
    folder.mkdir()

    follow_interrupted_run(MlflowTracker(), folder)
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"
    follow_resumed_run(MlflowTracker(), folder)

    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED" and run.info.run_name == "cells"
    assert run.data.params["train.batch_size"] == "4"
    for name, expected in LOGGED.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert sorted((point.step, point.value) for point in history) == expected
    assert math.isnan(run.data.metrics["eval/APs"])
    assert run.data.metrics["eval/AP a class  50  "] == 0.5  # MLflow allows few characters
