"""Overrides of the form KEY=VALUE."""

import pytest

from retinanet.config import (
    AdamWConfig,
    ATSSAssignmentConfig,
    IoUAssignmentConfig,
)
from retinanet.config.load import (
    is_overridden,
    load_config,
    with_overrides,
)
from retinanet.errors import InputError
from tests.helpers.config_errors import error_message, only_problem

TRAIN = "train: {epochs: 1}\n"


@pytest.mark.parametrize("override", ["train.epochs", "", "=3", "train..epochs=3", ".epochs=3", "train.=3"])
def test_malformed_override_is_refused(write, override):
    message = error_message(write(TRAIN), [override])
    assert message == f"override {override!r}: expected KEY.KEY=VALUE, for example train.epochs=3"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=[1", "override 'train.epochs=[1': the value cannot be read as YAML: line 1, column 3"),
        ("model=a: b: c", "override 'model=a: b: c': the value cannot be read as YAML: line 1, column 5"),
        ("model=*a", "override 'model=*a': the value cannot be read as YAML: line 1, column 1: the alias *a"),
        ("model=\x07", "override 'model=\\x07': the value cannot be read as YAML: unacceptable character #x0007"),
        ("model=" + "[" * 5000, "override 'model=[[["),
        ("device=[" + "[" * 5000 + "]", "override 'device=[[["),
    ],
)
def test_override_with_invalid_yaml_is_refused(write, override, message):
    found = error_message(write(TRAIN), [override])
    assert found.startswith(message) and len(found) < 250


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.epohs=3", "train.epohs: unknown key; did you mean 'epochs'?"),
        ("modell.channels=3", "modell: unknown key; did you mean 'model'?"),
        ("train.epochs.value=3", 'train.epochs: found {"value": 3} (mapping), expected a number'),
        ("train=3", "train: found 3 (whole number), expected a mapping of keys to values"),
        ("train.epochs=", "train: neither epochs nor steps is set; set exactly one, and the other to null"),
        (
            "train={epochs: 2, steps: 5}",
            "train: both epochs and steps are set; set exactly one, and the other to null",
        ),
        (
            "base=quickstart",
            "base: unknown key; known here: assignment, data, device, evaluation, inference, loss, model, postprocess, "
            "train",
        ),
        ("data.train.images=a", "data.train.annotations: missing, and it has no default"),
        ("data.transforms.0.p=1", 'data.transforms: found {"0": {"p": 1}} (mapping), expected a list'),
    ],
)
def test_override_with_an_unknown_key_or_invalid_value_is_explained(write, override, line):
    assert only_problem(write(TRAIN), [override]) == line


def test_error_mentions_overrides(write):
    assert error_message(write(TRAIN), ["train.seed=x"]).startswith("mine.yaml with overrides: 1 problem(s)")


def test_single_override_needs_no_list(write):
    path = write(TRAIN)
    assert load_config(path, "train.epochs=3") == load_config(path, ["train.epochs=3"])
    cfg = load_config(path)
    assert with_overrides(cfg, "device=cpu", "here") == with_overrides(cfg, ["device=cpu"], "here")


def test_later_override_wins(write):
    cfg = load_config(write(TRAIN), ["train.epochs=2", "train.epochs=3", "device=cpu", "train.optimizer.type=adamw"])
    assert (cfg.train.epochs, cfg.device, cfg.train.optimizer) == (3, "cpu", AdamWConfig())


def test_override_of_assignment_keeps_its_type(write):
    assert load_config(write(TRAIN), ["assignment.fg_iou=0.6"]).assignment == IoUAssignmentConfig(fg_iou=0.6)
    by_centre = write(TRAIN + "assignment: {type: atss, anchors_per_level: 27}")
    changed = load_config(by_centre, ["assignment.ignore_ioa=0"]).assignment
    assert changed == ATSSAssignmentConfig(anchors_per_level=27, ignore_ioa=0)
    assert load_config(by_centre, ["assignment.type=iou"]).assignment == IoUAssignmentConfig()


@pytest.mark.parametrize(
    ("text", "overrides", "length"),
    [
        ("epochs: 1", ["train.steps=5"], (None, 5)),
        ("steps: 1", ["train.epochs=5"], (5.0, None)),
        ("epochs: 1", ["train.epochs=null", "train.steps=5"], (None, 5)),
        ("epochs: 1", ["train.steps=5", "train.epochs=null"], (None, 5)),
        ("steps: 1", ["train={epochs: 5, seed: 3}"], (5.0, None)),
        ("steps: 1", ["train.epochs=5", "train.steps=7"], (None, 7)),  # the last one wins
        ("steps: 1, epochs: null", [], (None, 1)),
    ],
)
def test_run_length_of_an_override_replaces_that_of_the_file(write, text, overrides, length):
    train = load_config(write(f"train: {{{text}}}"), overrides).train
    assert (train.epochs, train.steps) == length
    assert with_overrides(load_config(write(f"train: {{{text}}}")), overrides, "here").train == train


@pytest.mark.parametrize(("base", "own", "length"), [("steps", "epochs", (5.0, None)), ("epochs", "steps", (None, 5))])
def test_run_length_of_a_file_replaces_that_of_its_base(write, base, own, length):
    write(f"train: {{{base}: 9}}", "common.yaml")
    train = load_config(write(f"base: common.yaml\ntrain: {{{own}: 5}}")).train
    assert (train.epochs, train.steps) == length


def test_file_that_sets_both_run_lengths_is_refused(write):
    assert only_problem(write("train: {epochs: 1, steps: 2}")).startswith("train: both epochs and steps are set")


def test_override_value_may_contain_equals_signs_and_dots(write):
    assert load_config(write(TRAIN), ["data.val=[{images: a=b/c.d, annotations: e}]"]).data.val[0].images == "a=b/c.d"


SOURCES = {
    "nothing": "",
    "a mapping": "data: {train: {images: old, annotations: kept.json}}",
    "a list of one": "data: {train: [{images: old, annotations: kept.json}]}",
    "a path": "data: {train: kept.json}",
    "a list of one path": "data: {train: [kept.json]}",
}


@pytest.mark.parametrize("form", SOURCES)
def test_override_of_one_source(write, form):
    overrides = ["data.train.images=new"] + (["data.train.annotations=kept.json"] if form == "nothing" else [])
    (source,) = load_config(write(TRAIN + SOURCES[form]), overrides).data.train
    assert (source.images, source.annotations) == ("new", "kept.json")


def test_path_in_an_override_replaces_the_source_and_can_be_refined(write):
    overrides = ["data.train=folder", "data.train.format=voc"]
    (source,) = load_config(write(TRAIN + SOURCES["a mapping"]), overrides).data.train
    assert (source.annotations, source.images, source.format) == ("folder", None, "voc")


def test_override_of_one_key_does_not_edit_a_list_of_sources(write):
    two = "data: {train: [{images: a, annotations: b}, {images: c, annotations: d}]}"
    assert only_problem(write(TRAIN + two), ["data.train.images=new"]) == (
        "data.train.annotations: missing, and it has no default"
    )


def test_with_overrides_validates_the_whole_config(write):
    cfg = load_config(write(TRAIN))
    changed = with_overrides(cfg, ["data.val.images=a", "data.val.annotations=b", "train.optimizer.lr=0.5"], "here")
    assert (changed.data.val[0].images, changed.train.optimizer.lr) == ("a", 0.5)
    assert cfg.data.val == ()
    with pytest.raises(InputError, match=r"^here: 1 problem\(s\) in the config\n  model.backbone: weights is none"):
        with_overrides(cfg, ["model.backbone.weights=none"], "here")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("postprocess.min_score=0.05", True),
        (["device=cpu", "postprocess={min_score: 0.3}"], True),
        (["postprocess.nms_iou=0.5", "postprocess={top_k: 5}", "device=cpu"], False),
        ([], False),
    ],
)
def test_key_is_overridden_by_itself_or_with_its_section(overrides, expected):
    assert is_overridden(overrides, "postprocess.min_score") == expected
