from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.config import (
    AdamWConfig,
    ATSSAssignmentConfig,
    Config,
    CosineSchedule,
    IoUAssignmentConfig,
    SGDConfig,
)
from retinanet.config.load import (
    config_from_values,
    config_to_yaml,
    find_config,
    load_config,
    merge,
    parse_override,
    with_overrides,
)
from retinanet.config.paths import expand_paths
from retinanet.errors import InputError
from tests.helpers.config_errors import error_message, only_problem

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
TRAIN = "train: {epochs: 1}\n"


# ---- finding a file


def test_packaged_config_is_found_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml"):
        assert find_config(name).read_text() == CONFIGS[[c.stem for c in CONFIGS].index("quickstart")].read_text()


def test_user_file_takes_precedence_over_packaged_config(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text("train: {steps: 7}")
    assert load_config("quickstart.yaml").train.steps == 7


def test_missing_path_does_not_fall_back_to_packaged_config(tmp_path):
    with pytest.raises(InputError, match="neither a file nor a bundled config; did you mean"):
        find_config(tmp_path / "quickstart.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quikstart", "quikstart: neither a file nor a bundled config; "
                      "did you mean quickstart?"),
        ("nothing/like/it.yaml", "nothing/like/it.yaml: neither a file nor a bundled config; "
                                 "bundled configs: "),
        ("", "'': is a folder, expected a config file"),
        ("bad\0name", "bad\0name: neither a file nor a bundled config"),
    ],
)  # fmt: skip
def test_unknown_config_suggests_packaged_ones(name, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load_config(name)
    assert str(caught.value).startswith(message)


def test_folder_is_refused(tmp_path):
    assert "is a folder, expected a config file" in error_message(tmp_path)


# ---- base


def test_base_next_to_the_file_is_merged_by_key(write, monkeypatch, tmp_path):
    write("train: {epochs: 3, batch_size: 4}\nmodel: {channels: 64, anchors: {offset: 0.5}}\n", "common.yaml")
    path = write("base: common.yaml\ntrain: {batch_size: 2}\nmodel: {anchors: {aspect_ratios: [1.0]}}\n")
    monkeypatch.chdir("/")  # a base is resolved relative to the file, not to the working directory
    cfg = load_config(path)
    assert (cfg.train.epochs, cfg.train.batch_size, cfg.model.channels) == (3, 2, 64)
    assert (cfg.model.anchors.offset, cfg.model.anchors.aspect_ratios) == (0.5, (1.0,))


def test_base_by_name_of_a_packaged_config(write):
    assert (
        load_config(write("base: quickstart\ntrain: {batch_size: 3}\n")).train
        == load_config("quickstart", ["train.batch_size=3"]).train
    )


def test_different_type_replaces_the_whole_part(write):
    write("train: {epochs: 1, optimizer: {type: sgd, lr: 0.5, momentum: 0.5}}\n", "common.yaml")
    cfg = load_config(write("base: common.yaml\ntrain: {optimizer: {type: adamw}, schedule: {type: cosine}}\n"))
    assert cfg.train.optimizer == AdamWConfig() and cfg.train.schedule == CosineSchedule()
    same = load_config(write("base: common.yaml\ntrain: {optimizer: {type: sgd, lr: 0.25}}\n"))
    assert same.train.optimizer == SGDConfig(lr=0.25, momentum=0.5)
    untyped = load_config(write("base: common.yaml\ntrain: {optimizer: {lr: 0.25}}\n"))
    assert untyped.train.optimizer == SGDConfig(lr=0.25, momentum=0.5)


def test_list_replaces_list(write):
    write(TRAIN + "data: {transforms: [{type: resize}, {type: flip}]}\n", "common.yaml")
    assert len(load_config(write("base: common.yaml\ndata: {transforms: [{type: resize}]}\n")).data.transforms) == 1


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("gone.yaml", "mine.yaml: base: gone.yaml: neither a file nor a bundled config"),
        ("3", "mine.yaml: base is 3, expected the name of one config file"),
        ("[a, b]", "mine.yaml: base is ['a', 'b'], expected the name of one config file"),
        ("mine.yaml", "mine.yaml: is the base of mine.yaml and has a base itself; only one level is allowed"),
        ("second.yaml", "second.yaml: is the base of mine.yaml and has a base itself; only one level is allowed"),
        ("broken.yaml", "broken.yaml: cannot be read as YAML: line 1"),
    ],
)
def test_invalid_base_is_refused(write, base, message):
    write("base: quickstart\n", "second.yaml")
    write("train: {", "broken.yaml")
    assert error_message(write(f"base: {base}\n")).startswith(message)


def test_error_from_a_base_names_the_base(write):
    write("train: {epochs: 1, batchsize: 3}\n", "common.yaml")
    message = error_message(write("base: common.yaml\ndevice: cpu\n"))
    assert message.splitlines()[0] == "mine.yaml (base common.yaml): 1 problem(s) in the config"


# ---- overrides


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
            "base: unknown key; known here: assignment, data, device, inference, loss, model, postprocess, train",
        ),
        ("data.train.images=a", "data.train.annotations: missing, and it has no default"),
        ("data.transforms.0.p=1", 'data.transforms: found {"0": {"p": 1}} (mapping), expected a list'),
    ],
)
def test_override_with_unknown_key_or_wrong_value_is_explained(write, override, line):
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
        ("steps: 1", ["train.epochs=5", "train.steps=7"], (None, 7)),  # the later one counts
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
}


@pytest.mark.parametrize("form", SOURCES)
def test_override_of_one_source(write, form):
    overrides = ["data.train.images=new"] + (["data.train.annotations=kept.json"] if form == "nothing" else [])
    (source,) = load_config(write(TRAIN + SOURCES[form]), overrides).data.train
    assert (source.images, source.annotations) == ("new", "kept.json")


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


MAPPINGS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3) | st.lists(st.integers()), max_size=4)


@settings(deadline=None)
@given(base=MAPPINGS, values=MAPPINGS)
def test_merge_of_flat_mappings_is_update(base, values):
    before = dict(base)
    assert merge(base, values) == base | values
    assert base == before


@settings(deadline=None)
@given(base=st.dictionaries(st.sampled_from("ab"), MAPPINGS), values=st.dictionaries(st.sampled_from("ab"), MAPPINGS))
def test_merge_is_idempotent(base, values):
    merged = merge(base, values)
    assert merge(merged, values) == merged
    assert all(merged[key][name] == value for key in values for name, value in values[key].items())


# ---- full form


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_packaged_config_reads_back_from_its_full_form(path, tmp_path):
    cfg = load_config(path)
    text = config_to_yaml(cfg)
    (tmp_path / "full.yaml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "full.yaml") == cfg == load_config(path.stem)
    assert set(yaml.safe_load(text)) == set(Config.model_fields)


@settings(deadline=None)
@given(
    lr=st.floats(1e-12, 1e3),
    name=st.text(max_size=8),
    jitter=st.tuples(st.floats(0.1, 0.9), st.floats(1.0, 3.0)),
    betas=st.tuples(st.floats(0, 0.9999), st.floats(0, 0.9999)),
)
def test_any_config_reads_back_from_its_full_form(lr, name, jitter, betas):
    low, high = jitter
    values = {
        "data": {
            "train": [{"images": name, "annotations": name}],
            "classes": [name, {"name": name + "2", "merge": ["no", "1e3", name]}],
            "transforms": [{"type": "scale_jitter", "min": low, "max": high}, {"type": "flip"}],
        },
        "train": {"steps": 3, "optimizer": {"type": "adamw", "lr": lr, "betas": list(betas)}},
    }
    cfg = config_from_values(values, source="test")
    values = parse_override(f"all={config_to_yaml(cfg)}")["all"]
    again = config_from_values(expand_paths(values, "test"), source="test")
    assert again == cfg and cfg.train.optimizer.lr == lr
