"""The page of a check: complete, self-contained, and safe with hostile names."""

import re

import pytest
import torch

from retinanet.config.load import load_config
from retinanet.doctor.check import check
from retinanet.doctor.page import render_report
from tests.helpers.planted import HOSTILE_CLASS, write_planted

TRANSFORMS = "[{type: flip}, {type: resize}, {type: blur, p: 0.0}]"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    overrides = [*write_planted(tmp_path_factory.mktemp("planted")), f"data.transforms={TRANSFORMS}"]
    report = check(load_config("quickstart", overrides), name="<i>mine", device=torch.device("cpu"), silent=True)
    report.command = "retinanet train '<u>'"
    return report


@pytest.fixture(scope="module")
def page(report):
    return render_report(report)


def test_all_text_is_escaped(page):
    assert HOSTILE_CLASS not in page and "<b>.png" not in page and "<i>" not in page and "<u>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\u202e" not in page and "a\\u202egnp.&lt;b&gt;.png" in page


def test_page_needs_no_network_and_runs_no_script(page):
    assert "<script" not in page and "<link" not in page and "@import" not in page
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']?([^"' >]*)""", page)
    assert addresses and all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    assert re.findall(r"https?://[^\"' <]+", page) == ["http://www.w3.org/2000/svg"] * 3  # the namespace of charts


def test_page_shows_everything(page, report):
    for finding in report.findings:
        assert f'<li class="{finding.severity}">' in page
    for text in (
        "2 errors, 11 warnings, 3 notes",
        "Correct the 2 errors",
        "IoU ≥ 0.5",
        "small objects",
        "Boxes per image",
    ):
        assert text in page
    assert page.count("<figure>") == 6 * 3 + 2  # images by epochs, and the transforms other than resize
    assert "flip (p: 0.5)" in page and "blur (p: 0.0, max_sigma: 2.0): no effect in 30 epochs" in page
    assert all(f"<td>{number}</td>" in page for number in (14, 5))  # cats for training and validation


def test_report_without_data_is_a_page(report):
    empty = type(report)(name="none", cfg=report.cfg)
    assert "Nothing was found." in render_report(empty)
