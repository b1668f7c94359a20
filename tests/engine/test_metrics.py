import math

import pytest
import torch

from retinanet.engine.metrics import BestScore, RunningMeans, StepMetrics
from retinanet.losses.detection import Losses

NAN = math.nan


def step_metrics(class_loss, box_loss, grad_norm, num_positive):
    losses = Losses(torch.tensor(class_loss), torch.tensor(box_loss))
    return StepMetrics(losses, torch.tensor(grad_norm), torch.tensor(num_positive))


def test_running_means_are_per_step_and_reset_by_reading():
    running = RunningMeans(torch.device("cpu"), skips=False)
    running.add(step_metrics(1.0, 0.5, 4.0, 10.0))
    running.add(step_metrics(3.0, 1.5, 8.0, 30.0))
    expected = {"loss": 3.0, "class_loss": 2.0, "box_loss": 1.0, "grad_norm": 6.0, "positive_anchors": 20.0}
    assert running.read() == expected
    running.add(step_metrics(5.0, 0.0, 1.0, 2.0))
    assert running.read()["loss"] == 5.0


def test_non_finite_values_count_as_zero_and_as_skipped():
    running = RunningMeans(torch.device("cpu"), skips=True)
    running.add(step_metrics(NAN, 1.0, math.inf, 10.0))
    running.add(step_metrics(2.0, 1.0, 3.0, 10.0))
    means = running.read()
    assert (means["class_loss"], means["grad_norm"], means["skipped_share"]) == (1.0, 1.5, 0.5)


def test_restored_running_means_continue():
    running, restored = (RunningMeans(torch.device("cpu"), skips=False) for _ in range(2))
    running.add(step_metrics(1.0, 0.5, 4.0, 10.0))
    restored.load_state_dict(running.state_dict())
    for means in (running, restored):
        means.add(step_metrics(3.0, 1.5, 8.0, 30.0))
    assert restored.read() == running.read()


@pytest.mark.parametrize(
    ("metric", "values", "is_best", "since", "best"),
    [
        ("AP", [0.2, 0.5, 0.5, 0.4], [True, True, False, False], 2, 0.5),
        ("AP50", [0.2, 0.5, 0.4, 0.6], [True, True, False, True], 0, 0.6),
        ("loss", [3.0, 1.0, 1.0, 2.0], [True, True, False, False], 2, 1.0),
        ("loss", [3.0, 4.0, 2.5], [True, False, True], 0, 2.5),
        ("APs", [NAN, NAN], [True, True], 0, NAN),  # no small objects: keep the newest
    ],
)
def test_best_score_by_hand(metric, values, is_best, since, best):
    score = BestScore(metric)
    others = {"AP": 0.9, "AP50": 0.9, "APs": 0.9, "loss": 0.1}
    assert [score.update(others | {metric: value}) for value in values] == is_best
    assert score.evaluations_since == since
    assert score.value == best or (math.isnan(score.value) and math.isnan(best))


def test_best_score_is_restored_only_for_the_same_metric():
    score = BestScore("loss")
    for value in (3.0, 1.0, 2.0):
        score.update({"loss": value})
    same, other = BestScore("loss"), BestScore("AP")
    same.load_state_dict(score.state_dict())
    other.load_state_dict(score.state_dict())
    assert (same.value, same.evaluations_since) == (1.0, 1)
    assert math.isnan(other.value) and other.evaluations_since == 0
