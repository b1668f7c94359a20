from datetime import datetime

import pytest
import torch

from retinanet.engine import timing as module
from retinanet.engine.timing import FirstSteps, RunTimer, describe_timing


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
    """Of 20 s, data takes 4, evaluation 8 and saving 2, which leaves 6 for steps. Training takes 10 s for 30 images."""
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
    assert timer.time_left(60, 0) == pytest.approx(200)  # 3 steps took 10 s
    assert timer.time_left(60, 2) == pytest.approx(216)  # an evaluation took 8 s


def test_shares_are_per_reading_and_time_left_is_over_all_steps(at):
    timer = RunTimer(earlier=0)
    timer.count_step(8)
    at(110)
    timer.read()
    timer.count_step(8)
    at(112)
    assert timer.read()["images_per_s"] == 4
    assert timer.time_left(10, 3) == 60  # two steps took 12 s; no evaluation is known


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


# ---- the first steps


def take(first_steps, at, durations, start=100.0):
    for seconds in durations:
        at(start)
        with first_steps.measure():
            at(start + seconds)
        start += seconds + 50  # an evaluation between two steps does not count


def test_first_two_steps_are_not_part_of_the_median(at):
    first_steps = FirstSteps(torch.device("cpu"))
    take(first_steps, at, [20, 9, 2, 1])
    assert not first_steps.are_enough
    take(first_steps, at, [5, 1000, 1000])
    assert first_steps.are_enough and first_steps.seconds == [20, 9, 2, 1, 5]
    assert first_steps.step_seconds == 2 and first_steps.warm_up == 2


def test_two_slow_steps_are_enough(at):
    first_steps = FirstSteps(torch.device("cpu"))
    take(first_steps, at, [70])
    assert not first_steps.are_enough  # one step is not enough
    take(first_steps, at, [40])
    assert first_steps.are_enough and first_steps.step_seconds == 40


def test_single_step_of_a_run_is_its_own_estimate(at):
    first_steps = FirstSteps(torch.device("cpu"))
    take(first_steps, at, [3])
    assert first_steps.step_seconds == 3


def test_description_of_the_first_steps_by_hand(at, monkeypatch):
    """100 steps of 36 s are an hour."""

    class Noon(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 2, 28, 23, 30)

    monkeypatch.setattr(module, "datetime", Noon)
    monkeypatch.setattr(module, "peak_memory", lambda device: 1_530_000_000)
    first_steps = FirstSteps(torch.device("cpu"))
    take(first_steps, at, [50, 36])
    text = first_steps.describe(100, evaluations=1)
    assert text == (
        "36 s per step (median of 1): 1 h left for 100 steps, not counting 1 evaluation, until 2026-03-01 00:30; "
        "peak memory 1.5 GB"
    )
    assert "for 100 steps, until" in first_steps.describe(100, evaluations=0)
