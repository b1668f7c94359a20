"""Log a run to MLflow."""

import re
from collections.abc import Mapping
from pathlib import Path

from retinanet.config import Config
from retinanet.config.flat import flat_config
from retinanet.tracking.run_id import named, not_installed, read_id, write_id


class MlflowTracker:
    """Callback that logs config and metrics to MLflow. A resumed run continues the same MLflow run.

    MLflow reads its settings, such as MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME, from the environment.

    Raises:
        InputError: mlflow is not installed.
    """

    def __init__(self) -> None:
        try:
            import mlflow
        except ImportError:
            raise not_installed("mlflow-skinny", "mlflow") from None
        self.mlflow = mlflow

    def on_start(self, folder: Path, cfg: Config, step: int) -> None:
        run_id = read_id(folder, "mlflow") if step else None
        run = self.mlflow.start_run(run_id=run_id, run_name=None if run_id else folder.name)
        write_id(folder, "mlflow", run.info.run_id)
        if run_id is None:  # parameters cannot be changed
            self.mlflow.log_params(flat_config(cfg))

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._log("train", step, metrics)

    def on_eval(self, step: int, metrics: Mapping[str, float], detections: object) -> None:
        self._log("eval", step, metrics)

    def on_end(self, result: object) -> None:
        self.mlflow.end_run()

    def on_error(self, error: BaseException) -> None:
        self.mlflow.end_run("FAILED")

    def _log(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        # MLflow may store metrics in files: with a file `AP`, there can be no `AP/NAME`.
        allowed = {re.sub(r"[^\w. -]", " ", name, flags=re.ASCII): value for name, value in metrics.items()}
        self.mlflow.log_metrics(named(kind, allowed), step=step)
