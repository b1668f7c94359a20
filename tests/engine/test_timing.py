from datetime import timedelta

import pytest

from retinanet.engine import timing as module
from retinanet.engine.timing import RunTimer, describe_timing


@pytest.fixture
def at(monkeypatch):
    """Sets the current time."""

    def set_time(seconds: float) -> None:
        monkeypatch.setattr(module.time, "perf_counter", lambda: seconds)

    set_time(100.0)
    return set_time


def spend(timer, at, what, start, end):
    at(start)
    with timer.measure(what):
        at(end)


def test_shares_and_rates_by_hand(at):
    """20 s: 4 of data, 8 of evaluation, 2 of saving, so 6 of steps. 30 images in the 10 s that were training."""
    timer = RunTimer(earlier=0)
    spend(timer, at, "data", 101, 104)
    spend(timer, at, "data", 105, 106)
    spend(timer, at, "evaluation", 107, 115)
    spend(timer, at, "saving", 116, 118)
    for _ in range(3):
        timer.count_step(10)
    at(120)
    timing = timer.read()
    assert timing == pytest.approx(
        {"images_per_s": 3.0, "data_share": 0.2, "step_share": 0.3, "evaluation_share": 0.4, "saving_share": 0.1}
    )
    assert timer.time_left(60) == timedelta(seconds=200)  # 3 steps took 10 s


def test_shares_are_per_reading_and_time_left_is_over_all_steps(at):
    timer = RunTimer(earlier=0)
    timer.count_step(8)
    at(110)
    timer.read()
    timer.count_step(8)
    at(112)
    assert timer.read()["images_per_s"] == 4
    assert timer.time_left(10) == timedelta(seconds=60)  # two steps took 12 s


def test_duration_includes_the_time_before_resuming(at):
    timer = RunTimer(earlier=50.0)
    at(107)
    assert timer.run_seconds == 57


@pytest.mark.parametrize(("data", "advised"), [(0.30, False), (0.31, True)])
def test_advice_if_data_loading_is_the_bottleneck(data, advised):
    timing = {"data_share": data, "step_share": 0.99 - data, "evaluation_share": 0.01, "saving_share": 0.004}
    text = describe_timing(timing)
    assert ("raise data.workers" in text) == advised
    assert "evaluation 1%" in text and "saving" not in text  # omitted below half a percent
