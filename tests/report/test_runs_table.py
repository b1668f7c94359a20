"""A comparison of runs as Markdown and JSON."""

import json
import re

from retinanet.report.runs import RunRecord, compare_runs
from retinanet.report.runs_table import as_json, as_markdown


def run_of(name, ap, *, seed=0, **config):
    lines = [{"kind": "eval", "step": 7, "AP": ap, "AP50": 2 * ap, "loss": None}]
    return RunRecord(name=name, config={"train.seed": seed, **config}, lines=lines)


def test_markdown_has_mean_and_spread_and_the_differing_keys():
    text = as_markdown(compare_runs([run_of("a", 0.3), run_of("b", 0.4, seed=1)]))
    assert text == (
        "| run | seeds | step | AP | AP50 | AP75 | APs | APm | APl | loss | best |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| a and 1 more | 0, 1 | 7 | 0.350 ± 0.071 | 0.700 ± 0.141 | - | - | - | - | - | AP 0.350 ± 0.071 |\n"
        "\n"
        "Mean ± standard deviation over runs that differ only in train.seed.\n"
        "\n"
        "| config key | a | b |\n"
        "| --- | --- | --- |\n"
        "| train.seed | 0 | 1 |"
    )


def test_run_without_evaluation_is_a_row():
    text = as_markdown(compare_runs([RunRecord(name="a", config={}, lines=[])]))
    assert "| a | None | no evaluation | - | - | - | - | - | - | - | - |" in text


def test_hostile_text_stays_in_its_cell():
    name = "a|b\n| <b> \u202e `*["
    (row,) = [line for line in as_markdown(compare_runs([run_of(name, 0.5)])).splitlines() if " 7 " in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 12
    assert r"a\|b \| \<b> \\u202e \`\*\[" in row


def test_json_has_null_instead_of_nan():
    values = as_json(compare_runs([run_of("a", 0.3), run_of("b", 0.4, lr=1)]))
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["groups"][0]["metrics"]["AP"] == {"mean": 0.3, "deviation": None, "count": 1}
    assert values["groups"][0]["metrics"]["loss"] is None
    assert values["tests"][0]["p"] is None and values["runs"][1]["final"]["AP"] == 0.4
