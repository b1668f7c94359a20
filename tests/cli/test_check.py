"""The command `retinanet check`: exit codes, output, and where the page is written."""

import json

import pytest

from retinanet.cli.check import main
from tests.helpers.blood_cells import BLOOD_CELLS, needs_blood_cells
from tests.helpers.planted import PLANTED, pattern, write_clean, write_planted

COCO_SLICE = BLOOD_CELLS.parent / "coco_slice"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory next to the dataset folder `set`."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def clean(here):
    write_clean(here.parent / "set")
    return here.parent / "set"


def test_clean_folder(clean, here, capsys):
    """Both splits are found, and nothing is written to the dataset folder."""
    before = sorted(clean.rglob("*"))
    assert main([str(clean), "device=cpu"]) == 0
    output = capsys.readouterr()
    assert output.err.startswith(f"{clean}: COCO, train.json, val.json\n")
    assert output.out.startswith("nothing found\n")
    assert output.out.endswith(f"train: retinanet train --data {clean} device=cpu\npage: check.html\n")
    assert sorted(here.iterdir()) == [here / "check.html"]
    assert sorted(clean.rglob("*")) == before


def test_planted_faults_as_json(here, capsys):
    overrides = write_planted(here.parent / "set")
    assert main(["quickstart", *overrides, "--json", "--page", "my page.html"]) == 1
    output = capsys.readouterr()
    assert output.err == ""
    result = json.loads(output.out)
    assert sorted((finding["severity"], finding["kind"]) for finding in result["findings"]) == sorted(PLANTED)
    assert result["counts"] == {"error": 2, "warning": 11, "note": 3}
    assert result["datasets"]["val"] == {"images": 5, "objects": {"cat": 5, "Cat": 0, "<script>alert(1)</script>": 0}}
    assert result["page"] == "my page.html" and (here / "my page.html").stat().st_size > 10_000
    assert result["anchors"]["unmatched"] == 1


def test_hostile_names_cannot_control_the_terminal(here, capsys):
    overrides = write_planted(here.parent / "set")
    assert main(["quickstart", *overrides, "--fast"]) == 1
    output = capsys.readouterr().out
    assert output.startswith("error: ") and "\n2 errors" not in output  # only decoding detects a truncated image
    assert not set(output) & set("\u202e\x1b")
    order = [line.partition(":")[0] for line in output.splitlines() if line.startswith(("error:", "warning:", "note:"))]
    assert order == sorted(order, key=["error", "warning", "note"].index)


def test_fitted_anchors_are_printed_with_their_improvement(clean, capsys):
    lines = ["model.anchors.sizes=[8, 16, 32, 64, 128]", "model.anchors.aspect_ratios=[4, 5, 6]"]
    assert main([str(clean), "--fast", "--fit-anchors", "device=cpu", *lines]) == 0
    output = capsys.readouterr().out
    now, _, proposed = output.partition("current anchors:")[2].partition("proposed anchors:")
    assert "Ceiling: AP " in now and "Ceiling: AP " in proposed
    assert [line.split("=")[0].strip() for line in proposed.splitlines()[1:4]] == [
        "model.anchors.sizes", "model.anchors.scales", "model.anchors.aspect_ratios"
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["missing/check.html", "."])
def test_unwritable_page_is_reported_before_the_checks(clean, place, capsys, monkeypatch):
    monkeypatch.setattr("retinanet.doctor.check.check", None)
    assert main([str(clean), "--page", place]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_default_page_is_not_in_the_dataset(clean, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(clean)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = sorted(clean.rglob("*"))
    assert main([".", "--fast", "device=cpu"]) == 0
    assert capsys.readouterr().out.endswith(f"page: {tmp_path / 'temporary/check.html'}\n")
    assert sorted(clean.rglob("*")) == before


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nothing", "neither a file nor a bundled config"),
        ("../empty", "../empty: no annotations found"),
        ("a.txt", "is not an anno"),
    ],
)
def test_argument_that_is_neither_config_nor_dataset(here, argument, message, capsys):
    (here.parent / "empty").mkdir()
    (here / "a.txt").write_text("text")
    assert main([argument]) == 2
    assert message in capsys.readouterr().err


def test_command_contains_the_recommended_lines(clean, here, capsys):
    """A config file is used unchanged, so the lines are part of the command."""
    source = f"{{annotations: {clean / 'train.json'}, images: {clean / 'train'}}}"
    (here / "my.yaml").write_text(f"base: quickstart\ndata: {{train: {source}, val: []}}\n")
    pattern(0).save(clean / "train/1.png")  # a copy
    assert main(["my.yaml", "--fast", "device=cpu", "train.epochs=3"]) == 0
    last = capsys.readouterr().out.splitlines()[-2]
    assert (
        last.startswith("train: retinanet train my.yaml device=cpu train.epochs=3 ") and " train.epochs=" in last[60:]
    )


# ---- real data


@pytest.mark.slow
@needs_blood_cells
def test_blood_cells_in_both_formats(here, capsys):
    """Two splits contain one box without area each; the annotations have no other errors."""
    for kind, options in (("voc", []), ("coco", ["--fast"])):  # the same images: decode them once
        command = [str(BLOOD_CELLS), f"data.train.format={kind}", "--json", "--page", f"{kind}.html", *options]
        assert main([*command, "device=cpu"]) == 0
        found = [(item["severity"], item["kind"]) for item in json.loads(capsys.readouterr().out)["findings"]]
        assert found == [("warning", "box_without_area")] * 2


@pytest.mark.slow
@pytest.mark.skipif(not COCO_SLICE.is_dir(), reason=f"no dataset in {COCO_SLICE}")
def test_coco_slice(here, capsys):
    """64 training images cannot contain objects of all 80 classes, and at 320 pixels some objects have no anchor."""
    assert main([str(COCO_SLICE), "--json", "device=cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = [(item["severity"], item["kind"], item["where"]) for item in result["findings"]]
    assert found == [
        ("warning", "no_anchor", "model.anchors"),
        ("note", "category_without_objects", str(COCO_SLICE / "instances_train2017.json")),
    ]
    assert result["anchors"]["objects"] == 542 and result["anchors"]["unmatched"] == 35
