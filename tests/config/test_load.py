from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.config import (
    AdamWConfig,
    Config,
    CosineSchedule,
    SGDConfig,
)
from retinanet.config.load import (
    config_from_values,
    config_to_yaml,
    find_config,
    load_config,
    merge,
    parse_override,
)
from retinanet.config.paths import expand_paths
from retinanet.errors import InputError
from tests.helpers.config_errors import error_message

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
TRAIN = "train: {epochs: 1}\n"


# ---- finding a file


def test_bundled_config_is_found_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml"):
        assert find_config(name).read_text() == CONFIGS[[c.stem for c in CONFIGS].index("quickstart")].read_text()


def test_user_file_takes_precedence_over_a_bundled_config(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text("train: {steps: 7}")
    assert load_config("quickstart.yaml").train.steps == 7


def test_missing_path_does_not_fall_back_to_a_bundled_config(tmp_path):
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
def test_unknown_config_suggests_bundled_ones(name, message, monkeypatch, tmp_path):
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


def test_base_by_name_of_a_bundled_config(write):
    assert (
        load_config(write("base: quickstart\ntrain: {batch_size: 3}\n")).train
        == load_config("quickstart", ["train.batch_size=3"]).train
    )


def test_different_type_replaces_the_whole_section(write):
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


# ---- merging


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


# ---- round trip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_bundled_config_survives_a_round_trip(path, tmp_path):
    cfg = load_config(path)
    text = config_to_yaml(cfg)
    (tmp_path / "full.yaml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "full.yaml") == cfg == load_config(path.stem)
    assert set(yaml.safe_load(text)) == set(Config.model_fields) - {"custom"}  # only in runs with custom parts


@settings(deadline=None)
@given(
    lr=st.floats(1e-12, 1e3),
    name=st.text(max_size=8),
    jitter=st.tuples(st.floats(0.1, 0.9), st.floats(1.0, 3.0)),
    betas=st.tuples(st.floats(0, 0.9999), st.floats(0, 0.9999)),
)
def test_any_config_survives_a_round_trip(lr, name, jitter, betas):
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
