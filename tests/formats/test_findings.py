import logging

import pytest

from retinanet.errors import InputError
from retinanet.formats.findings import Finding, FindingCounter, report
from tests.helpers.coco_files import messages_in

WARNING = Finding("warning", "odd", "a.json", "it is odd", ("x", "y"))
NOTE = Finding("note", "repaired", "a.json", "repaired")
ERROR = Finding("error", "wrong", "a.json", "it is wrong", ("z",))


def test_warnings_and_notes_are_logged(caplog):
    caplog.set_level(logging.INFO, "retinanet")
    report([WARNING, NOTE])
    assert messages_in(caplog, "WARNING") == ["a.json: it is odd (x; y)"]
    assert messages_in(caplog, "INFO") == ["a.json: repaired"]


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        ([WARNING, ERROR, NOTE], "a.json: it is wrong (z)"),
        ([ERROR, ERROR], "a.json: 2 problem(s)\n  it is wrong (z)\n  it is wrong (z)"),
        (
            [ERROR, ERROR._replace(where="b")],
            "2 problem(s) in the data\n  a.json: it is wrong (z)\n  b: it is wrong (z)",
        ),
    ],
)
def test_errors_are_raised_together(caplog, findings, message):
    with pytest.raises(InputError) as caught:
        report(findings)
    assert str(caught.value) == message
    assert messages_in(caplog, "WARNING") == []


def test_occurrences_are_counted_by_kind_and_message():
    counter = FindingCounter("a.json")
    for number in range(5):
        counter.add("note", "repaired", "{count} repaired", f"id {number}")
    counter.add("warning", "odd", "{count} odd", "id 9")
    assert counter.findings() == (
        Finding("note", "repaired", "a.json", "5 repaired", ("id 0", "id 1", "id 2", "...")),
        Finding("warning", "odd", "a.json", "1 odd", ("id 9",)),
    )
