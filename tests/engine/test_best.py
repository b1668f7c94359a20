import math

import pytest

from retinanet.engine.best import BestScore, check_measurable
from retinanet.errors import InputError
from tests.helpers.datasets import dataset_of, image_record

NAN = math.nan


@pytest.mark.parametrize(
    ("metric", "values", "is_best", "since", "best"),
    [
        ("AP", [0.2, 0.5, 0.5, 0.4], [True, True, False, False], 2, 0.5),
        ("AP50", [0.2, 0.5, 0.4, 0.6], [True, True, False, True], 0, 0.6),
        ("loss", [3.0, 1.0, 1.0, 2.0], [True, True, False, False], 2, 1.0),
        ("loss", [3.0, 4.0, 2.5], [True, False, True], 0, 2.5),
        ("APs", [NAN, NAN], [True, True], 2, NAN),  # no small objects: the newest checkpoint counts as the best
        ("AP", [NAN, 0.0, NAN, NAN], [True, True, False, False], 2, 0.0),
        ("AP", [0.5, NAN, 0.6, NAN], [True, False, True, False], 1, 0.6),
        ("loss", [NAN, 3.0, NAN, 2.0], [True, True, False, True], 0, 2.0),
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


SMALL_OBJECT, CROWD = image_record(boxes=[[0, 0, 9, 9]]), image_record(boxes=[[0, 0, 9, 9]], is_crowd=[True])
LARGE_OBJECT = image_record(height=200, width=200, boxes=[[0, 0, 99, 99]])


@pytest.mark.parametrize(
    ("metric", "images", "problem"),
    [
        ("AP", [image_record(boxes=())], "it has no objects, so AP cannot be measured"),
        ("AP50", [CROWD], "it has no objects, so AP50 cannot be measured"),
        ("APl", [SMALL_OBJECT, CROWD], "none of its 1 object(s) counts towards APl, so APl cannot be measured"),
        ("APs", [LARGE_OBJECT] * 2, "none of its 2 object(s) counts towards APs, so APs cannot be measured"),
        ("AP", [image_record(boxes=()), SMALL_OBJECT], None),
        ("APs", [SMALL_OBJECT], None),
        ("APl", [LARGE_OBJECT], None),
        ("loss", [image_record(boxes=())], None),
    ],
)
def test_metric_without_objects_causes_a_warning_and_cannot_be_used_for_early_stopping(caplog, metric, images, problem):
    data = dataset_of(images)
    check_measurable(metric, data, early_stop=None)
    warnings = [record.getMessage() for record in caplog.records]
    if problem is None:
        assert warnings == []
        check_measurable(metric, data, early_stop=2)
        return
    assert warnings == [
        f"data.val: {problem}; best.pt will be the newest checkpoint unless you set train.best_metric=loss"
    ]
    with pytest.raises(InputError) as refused:
        check_measurable(metric, data, early_stop=2)
    assert str(refused.value) == (
        f"data.val: {problem} and train.early_stop cannot monitor it; add such objects, or set train.best_metric=loss "
        "or train.early_stop=null"
    )
