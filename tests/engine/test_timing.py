from datetime import timedelta

import pytest

from retinanet.engine import timing as module
from retinanet.engine.timing import Clock, describe_times


@pytest.fixture
def at(monkeypatch):
    """Sets the time."""

    def set_time(seconds: float) -> None:
        monkeypatch.setattr(module.time, "perf_counter", lambda: seconds)

    set_time(100.0)
    return set_time


def spend(clock, at, what, start, end):
    at(start)
    with clock.spent_on(what):
        at(end)


def test_shares_and_rates_by_hand(at):
    """20 s: 4 of data, 8 of evaluation, 2 of saving, so 6 of steps. 30 images in the 10 s that were training."""
    clock = Clock(before=0)
    spend(clock, at, "data", 101, 104)
    spend(clock, at, "data", 105, 106)
    spend(clock, at, "evaluation", 107, 115)
    spend(clock, at, "saving", 116, 118)
    for _ in range(3):
        clock.stepped(10)
    at(120)
    figures = clock.read()
    assert figures == pytest.approx(
        {"images_per_s": 3.0, "data_share": 0.2, "step_share": 0.3, "evaluation_share": 0.4, "saving_share": 0.1}
    )
    assert clock.left(60) == timedelta(seconds=200)  # 3 steps took 10 s


def test_each_reading_begins_anew_and_the_time_left_does_not(at):
    clock = Clock(before=0)
    clock.stepped(8)
    at(110)
    clock.read()
    clock.stepped(8)
    at(112)
    assert clock.read()["images_per_s"] == 4
    assert clock.left(10) == timedelta(seconds=60)  # two steps took 12 s


def test_a_run_counts_the_time_before_it_was_resumed(at):
    clock = Clock(before=50.0)
    at(107)
    assert clock.run_seconds == 57


@pytest.mark.parametrize(("data", "advised"), [(0.30, False), (0.31, True)])
def test_advice_where_images_come_too_slowly(data, advised):
    figures = {"data_share": data, "step_share": 0.99 - data, "evaluation_share": 0.01, "saving_share": 0.004}
    text = describe_times(figures)
    assert ("raise data.workers" in text) == advised
    assert "evaluation 1%" in text and "saving" not in text  # below half a per cent nothing is said
