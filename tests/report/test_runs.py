"""Groups of runs, the statistics over their seeds, and the config keys that differ."""

import math

import pytest
from scipy import stats

from retinanet.report.runs import RunRecord, compare_runs

STEPS = (100, 200)


def run_of(name, *values, seed=0, lr=0.01, **config):
    """A run with one AP per evaluation."""
    lines = [
        {"kind": "eval", "step": step, "AP": ap, "AP50": 0.9, "loss": None}
        for step, ap in zip(STEPS, values, strict=False)
    ]
    config = {"train.seed": seed, "train.optimizer.lr": lr, "train.best_metric": "AP", **config}
    return RunRecord(name=name, config=config, lines=[{"kind": "train", "step": 100, "loss": 1.5}, *lines])


def test_runs_that_differ_only_in_seed_and_in_keys_without_effect_are_one_group():
    runs = [
        run_of("a0", 0.2, 0.4),
        run_of("b", 0.2, 0.4, lr=0.02),
        run_of("a1", 0.3, 0.5, seed=1, **{"data.workers": 3}),
    ]
    first, second = compare_runs(runs).groups
    assert [run.name for run in first.runs] == ["a0", "a1"] and [run.name for run in second.runs] == ["b"]
    assert (first.name, first.seeds, second.name) == ("a0 and 1 more", [0, 1], "b")


def test_mean_and_spread_are_of_the_last_evaluation():
    (group,) = compare_runs([run_of("0", 0.9, 0.3, seed=0), run_of("1", 0.9, 0.5, seed=1)]).groups
    summary = group.summary("AP")
    # Mean of 0.3 and 0.5; standard deviation sqrt((0.1² + 0.1²) / 1).
    assert (summary.mean, summary.deviation, summary.count) == pytest.approx((0.4, math.sqrt(0.02), 2))
    assert group.summary("loss") is None  # null in both


def test_unfinished_run_is_excluded_from_the_mean():
    (group,) = compare_runs([run_of("0", 0.1, 0.3), run_of("1", 0.1, seed=1), run_of("2", seed=2)]).groups
    assert group.step == 200 and [run.name for run in group.finished] == ["0"]
    assert group.summary("AP").count == 1 and math.isnan(group.summary("AP").deviation)


def test_best_evaluation_is_that_of_the_best_checkpoint():
    assert run_of("a", 0.5, 0.4).best["step"] == 100
    lines = [{"kind": "eval", "step": step, "AP": 0.1, "loss": loss} for step, loss in ((1, 2.0), (2, None), (3, 1.0))]
    by_loss = RunRecord(name="a", config={"train.best_metric": "loss"}, lines=lines)
    assert (by_loss.best["step"], by_loss.final["step"]) == (3, 3)
    assert RunRecord(name="a", config={}, lines=[]).best is None


def test_differing_keys_are_listed_and_those_that_affect_results_come_first():
    runs = [run_of("a", 0.1, **{"data.workers": 1, "old.key": [1]}), run_of("b", 0.1, lr=0.02, **{"data.workers": 2})]
    found = compare_runs(runs).differences
    assert [(row.key, row.values, row.affects_results) for row in found] == [
        ("train.optimizer.lr", ["0.01", "0.02"], True),
        ("old.key", ["[1]", "-"], True),
        ("data.workers", ["1", "2"], False),
    ]


def test_groups_are_tested_against_the_first_as_scipy_does():
    first, second, third = [0.30, 0.32, 0.31], [0.40, 0.41, 0.43], [0.30, 0.31, 0.33]
    runs = [
        run_of(f"{lr}_{seed}", 0.0, ap, seed=seed, lr=lr)
        for lr, values in ((1, first), (2, second), (3, third))
        for seed, ap in enumerate(values)
    ]
    comparison = compare_runs(runs)
    p_values = [stats.ttest_ind(values, first, equal_var=False).pvalue for values in (second, third)]
    # Holm: the smaller p-value is doubled, the larger one is kept.
    assert [test.p for test in comparison.tests] == pytest.approx([2 * p_values[0], p_values[1]])
    assert [test.difference for test in comparison.tests] == pytest.approx([0.31 / 3, 0.01 / 3])
    clear, unclear = comparison.sentences
    assert "2_0 and 2 more: AP is 0.103 higher than that of 1_0 and 2 more, more than chance explains" in clear
    assert "which may be chance" in unclear


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([run_of("b", 0.0, 0.5, lr=2)], "it needs at least two seeds of each"),
        ([run_of("b", 0.0, 0.5, lr=2), run_of("c", 0.0, 0.5, lr=2, seed=1)], "the runs of each have the same AP"),
    ],
)
def test_groups_without_a_spread_cannot_be_tested(others, reason):
    same = [run_of("a", 0.0, 0.6), run_of("a1", 0.0, 0.6, seed=1)]
    (sentence,) = compare_runs([*same, *others]).sentences
    assert sentence.startswith("b") and "AP is 0.100 lower than that of a and 1 more" in sentence and reason in sentence


def test_curves_omit_steps_without_the_metric():
    run = run_of("a", None, 0.5)
    assert run.curve("eval", "AP") == ([200], [0.5])
    assert run.curve("train", "loss") == ([100], [1.5])
    assert run.curve("eval", "loss") == ([], [])
