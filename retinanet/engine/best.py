"""Whether an evaluation is the best so far by `train.best_metric`, and how many have passed since then."""

import math
from typing import Any


class BestScore:
    """The best value of one validation metric so far, and the number of evaluations since then.

    Args:
        metric: key of the evaluation metrics. A lower `loss` is better; of any other metric a higher value is.
    """

    def __init__(self, metric: str):
        self.metric = metric
        self.value = math.nan  # until the first evaluation
        self.evaluations_since = 0

    def update(self, metrics: dict[str, float]) -> bool:
        """Compare the metrics of one more evaluation; whether they are the best so far.

        A value of nan (no ground truth to score against) always counts as the best, so that the newest checkpoint is
        kept.
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
        """Restore the best value; values of another metric are not comparable and are ignored."""
        if state["metric"] == self.metric:
            self.value, self.evaluations_since = state["value"], state["evaluations_since"]
