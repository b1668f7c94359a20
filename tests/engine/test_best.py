import math

import pytest

from retinanet.engine.best import BestScore

NAN = math.nan


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
