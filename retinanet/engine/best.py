"""Track the best evaluation so far by `train.best_metric`, and count the evaluations since then."""

import logging
import math
from typing import Any

from retinanet.errors import InputError
from retinanet.evaluation.coco import score_detections
from retinanet.formats.dataset import Dataset

log = logging.getLogger(__name__)


class BestScore:
    """The best value of one validation metric so far, and the number of evaluations since then.

    Args:
        metric: key of the evaluation metrics. Lower is better for `loss`, higher for all other metrics.
    """

    def __init__(self, metric: str):
        self.metric = metric
        self.value = math.nan  # until an evaluation has measured the metric
        self.evaluations_since = 0

    def update(self, metrics: dict[str, float]) -> bool:
        """Record the metrics of a new evaluation and return whether its checkpoint is the best so far.

        NaN, the value of a metric that cannot be measured, is never better than a number. Until there is a number, the
        newest checkpoint is the best, but its evaluation does not count as an improvement.
        """
        value = metrics[self.metric]
        is_better = value < self.value if self.metric == "loss" else value > self.value
        is_first = math.isnan(self.value)
        if is_better or (is_first and not math.isnan(value)):
            self.value, self.evaluations_since = value, 0
            return True
        self.evaluations_since += 1
        return is_first

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "value": self.value, "evaluations_since": self.evaluations_since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best value, unless it was saved for a different metric and is therefore not comparable."""
        if state["metric"] == self.metric:
            self.value, self.evaluations_since = state["value"], state["evaluations_since"]


def check_measurable(metric: str, data: Dataset, *, early_stop: int | None) -> None:
    """Warn if the validation set has no objects for the metric that selects the best checkpoint.

    Raises:
        InputError: there are no such objects, and `early_stop` is set, which would then stop the run for no reason.
    """
    value = score_detections(data, {}).metrics.get(metric)
    if value is None or not math.isnan(value):  # None: not a COCO metric, such as the loss
        return
    count = sum(data.object_counts())
    found = f"none of its {count} object(s) counts towards {metric}" if count else "it has no objects"
    problem = f"data.val: {found}, so {metric} cannot be measured"
    if early_stop:
        raise InputError(
            f"{problem} and train.early_stop cannot monitor it; add such objects, or set train.best_metric=loss or "
            "train.early_stop=null"
        )
    log.warning("%s; best.pt will be the newest checkpoint unless you set train.best_metric=loss", problem)
