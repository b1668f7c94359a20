"""The page of an evaluation: complete, self-contained, safe with hostile names, and limited in size."""

import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from retinanet.evaluation.diagnosis import Diagnosis
from retinanet.report.evaluation_page import MAX_CONFUSED, MAX_CURVES, MEANINGS, render_evaluation
from retinanet.visualization.plots import Chart, Series
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.evaluation_reports import report_of
from tests.helpers.simulated_detectors import detect, random_dataset

HOSTILE = "<script>alert('1')</script>\" onload=\"x \x1b[2J\u202etxt.exe"
MAX_SIZE = 5_000_000  # bytes
VOID = {"meta", "br", "input", "img", "image", "rect", "path", "circle", "use"}


class Page(HTMLParser):
    """Parse a page into its elements, and check their nesting."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def charts() -> list[Chart]:
    return [Chart("Training loss", "step", "loss", [Series("loss", [1.0, 2.0], [0.9, 0.5])])]


@pytest.fixture(scope="module")
def report():
    random = np.random.default_rng(0)
    dataset = random_dataset(random, num_images=30)
    return report_of(
        dataset,
        detect(dataset, random, label_error=0.2),
        other=detect(dataset, random),
        diagnoses=[Diagnosis("permuted classes", "AP50 rises from 0.1 to 0.8", "Check the order of the classes.")],
        facts={"data": "val.json"},
        training=charts(),
        config="train: {seed: 0}",
    )


@pytest.fixture(scope="module")
def page(report):
    return render_evaluation(report)


def test_page_shows_everything(page, report):
    for section in ("scores", "classes", "errors", "images", "suspected", "curves", "confusion", "confidence",
                    "comparison", "training", "config"):  # fmt: skip
        assert f'<section id="{section}">' in page and f'<a href="#{section}">' in page
    for text in (report.analysis.finding, report.analysis.comparison.sentence, "Permuted classes.", "val.json",
                 "AP50 rises from 0.1 to 0.8", "Check the order of the classes.", "train: {seed: 0}"):  # fmt: skip
        assert html.escape(text, quote=False) in page
    assert all(f'<th scope="row">{name}</th><td>{value:.3f}</td>' in page
               for name, value in report.scores.metrics.items() if value == value)  # fmt: skip
    assert set(report.scores.metrics) == set(MEANINGS)
    for kind in report.errors.tide.kinds:
        assert f'<th scope="row">{kind.name}</th><td>{kind.count}</td><td>+{kind.delta_ap:.3f}</td>' in page
    assert page.count('<figure class="image"') == len(report.images)
    assert all(str(count) in page for count in np.diag(report.errors.confusion)[:-1])


def test_page_is_self_contained(page):
    document = Page(page)
    addresses = [value for _, attributes in document.elements for name, value in attributes.items()
                 if name in ("href", "src", "action", "data", "srcset", "xlink:href")]  # fmt: skip
    assert addresses and all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    assert set(re.findall(r"[a-z]+://[^\"' <)]+", page)) == {"http://www.w3.org/2000/svg"}  # the namespace of charts
    assert not document.all("link", "iframe", "object", "embed", "form", "base")
    assert "@import" not in page and "url(" not in page
    assert not any(name.startswith("on") for _, attributes in document.elements for name in attributes)


def test_page_can_be_used_by_keyboard_and_screen_reader(page):
    document = Page(page)
    anchors = {attributes["href"] for attributes in document.all("a")}
    ids = [attributes["id"] for _, attributes in document.elements if attributes.get("id")]
    assert len(ids) == len(set(ids)) and {anchor.removeprefix("#") for anchor in anchors} <= set(ids)
    assert document.all("a")[0] == {"class": "skip", "href": "#content"}
    assert all(attributes.get("aria-label") for attributes in document.all("svg"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in document.all("th"))
    regions = [attributes for _, attributes in document.elements if "scroll" in (attributes.get("class") or "").split()]
    assert regions and all(region["tabindex"] == "0" and region["aria-label"] for region in regions)
    # Without a script, the boxes above the thresholds are shown, but not the controls.
    filters = next(attributes for _, attributes in document.elements if attributes.get("id") == "image-filters")
    assert "hidden" in filters


def test_boxes_below_the_threshold_are_off_until_the_script_shows_them(page, report):
    boxes = [attributes for attributes in Page(page).all("g") if "box" in (attributes.get("class") or "").split()]
    thresholds = report.errors.thresholds
    assert boxes
    for box in boxes:
        classes, score = box["class"].split(), float(box["data-score"])
        is_above = score > thresholds[int(box["data-label"])]
        assert ("off" in classes) == ("detection" in classes and not is_above)
        assert ("missed" in classes) == ("truth" in classes and box["data-kind"] == "object" and not is_above)
    shown = {float(number) for number in re.search('data-thresholds="([^"]*)"', page)[1].split()}
    assert shown == set(thresholds.tolist())


def test_all_text_is_escaped():
    records = [image_record(f"{HOSTILE}{number}.png", image_id=number) for number in range(3)]
    dataset = dataset_of(records, class_names=(HOSTILE, "b"))
    detections = {0: found([1, 1, 4, 3], scores=[0.9]), 1: found([1, 1, 4, 3], scores=[0.8], labels=[1])}
    report = report_of(
        dataset,
        detections,
        title=HOSTILE,
        other=detections,
        diagnoses=[Diagnosis(HOSTILE, HOSTILE, HOSTILE)],
        facts={HOSTILE: HOSTILE},
        training=[Chart(HOSTILE, HOSTILE, HOSTILE, [Series(HOSTILE, [0.0, 1.0], [0.0, 1.0])])],
        config=HOSTILE,
    )
    page = render_evaluation(report)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert page.count("<script") == 1 and "alert('1')" not in page
    document = Page(page)
    assert not any("onload" in attributes for _, attributes in document.elements)
    shown = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert any(attributes.get("title") == shown for attributes in document.all("th"))


# ---- size and special cases


@pytest.mark.slow
def test_page_of_a_large_dataset_is_small():
    random = np.random.default_rng(0)
    dataset = random_dataset(random, num_images=1500, num_classes=80, max_objects=15)
    detections = detect(dataset, random, num_false=20.0)
    report = report_of(dataset, detections, training=charts(), config="x: 1\n" * 300, num_resamples=0)
    page = render_evaluation(report)
    assert len(page.encode()) < MAX_SIZE
    assert page.count('<figure class="image"') > 20


@pytest.mark.slow
def test_page_with_1203_classes_is_small():
    random = np.random.default_rng(0)
    dataset = random_dataset(random, num_images=100, num_classes=1203, max_objects=15)
    detections = detect(dataset, random)
    page = render_evaluation(report_of(dataset, detections, num_resamples=0))
    assert len(page.encode()) < MAX_SIZE
    assert f"The {MAX_CURVES} of" in page and f"Only the {MAX_CONFUSED} most confused classes" in page
    assert page.count('<th scope="row" title="class 1202">') == 1


def test_page_without_detections():
    dataset = dataset_of([image_record("a.png")])
    page = render_evaluation(report_of(dataset, {}))
    Page(page)
    assert "1 image, 1 object in 1 class, 0 detections." in page
    assert "There are no detections" in page and '<figure class="image"' in page


def test_page_without_objects():
    dataset = dataset_of([image_record("a.png", boxes=[])])
    page = render_evaluation(report_of(dataset, {0: found([1, 1, 4, 3], scores=[0.9])}))
    Page(page)
    assert "0 objects" in page
    assert not re.search(r">\s*nan\b", page)  # undefined values are dashes


def test_page_without_images_objects_or_classes_is_a_page():
    dataset = dataset_of([image_record("a.png", boxes=[])])
    Page(render_evaluation(report_of(dataset, {}, num_resamples=0)))
