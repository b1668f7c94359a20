"""Track the best evaluation so far by `train.best_metric`, and count the evaluations since then."""

import math
from typing import Any


class BestScore:
    """The best value of one validation metric so far, and the number of evaluations since then.

    Args:
        metric: key of the evaluation metrics. Lower is better for `loss`, higher for all other metrics.
    """

    def __init__(self, metric: str):
        self.metric = metric
        self.value = math.nan  # until the first evaluation
        self.evaluations_since = 0

    def update(self, metrics: dict[str, float]) -> bool:
        """Record the metrics of a new evaluation and return whether they are the best so far.

        NaN (no ground truth to score against) always counts as the best, which keeps the newest checkpoint.
        """
        value = metrics[self.metric]
        is_no_better = self.value <= value if self.metric == "loss" else self.value >= value
        if is_no_better:
            self.evaluations_since += 1
            return False
        self.value, self.evaluations_since = value, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "value": self.value, "evaluations_since": self.evaluations_since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best value, unless it was saved for a different metric and is therefore not comparable."""
        if state["metric"] == self.metric:
            self.value, self.evaluations_since = state["value"], state["evaluations_since"]
