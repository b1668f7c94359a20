"""The page of a comparison of runs: complete, self-contained, and safe with hostile names."""

import re

import pytest

from retinanet.report.runs import RunRecord, compare_runs
from retinanet.report.runs_page import render_runs

HOSTILE = "<script>alert(1)</script>\u202e"


def run_of(name, seed=0):
    lines = [{"kind": "train", "step": step, "loss": 1 / step} for step in range(1, 2001)]
    evaluation = {"kind": "eval", "step": 2000, "AP": 0.5, "loss": 0.4}
    return RunRecord(name=name, config={"train.seed": seed, HOSTILE: name}, lines=[*lines, evaluation])


@pytest.fixture(scope="module")
def page():
    return render_runs(compare_runs([run_of("a"), run_of(HOSTILE, seed=1)]))


def test_all_text_is_escaped(page):
    assert HOSTILE not in page and "<script" not in page and "\u202e" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in page


def test_page_is_self_contained_and_small(page):
    assert "<link" not in page and "@import" not in page and "src=" not in page
    assert set(re.findall(r"https?://[^\"' <]+", page)) == {"http://www.w3.org/2000/svg"}
    assert len(page) < 200_000


def test_page_has_the_table_and_a_chart_per_metric(page):
    assert page.count("<svg") == 3
    assert all(f">{title}<" in page for title in ("Training loss", "Validation loss", "Validation AP"))
    assert page.count('<th scope="row" title="a">a</th>') == 1 and ">train.seed</th>" in page
