"""Paths in configs and overrides: `~`, environment variables, and text with a special meaning in YAML."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinanet.config.load import config_to_yaml, load_config, parse_override
from retinanet.config.paths import escape_path, expand_path, is_path_key
from retinanet.errors import InputError
from tests.helpers.config_errors import error_message

TRAIN = "train: {epochs: 1}\n"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data/$x ~")
    monkeypatch.delenv("GONE", raising=False)


# ---- expansion


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("~", "/home/me"),
        ("~/a b", "/home/me/a b"),
        ("a/~/b", "a/~/b"),
        ("a~", "a~"),
        ("$DATA/a", "/data/$x ~/a"),  # a value is not expanded again
        ("x${DATA}a", "x/data/$x ~a"),
        ("$$DATA/$$", "$DATA/$"),
        ("set $1/$/50$", "set $1/$/50$"),
        ("$~", "~"),
        ("C:\\set\\a", "C:\\set\\a"),
    ],
)
def test_expanded_path(path, expanded):
    assert expand_path(path, "here") == expanded


@pytest.mark.parametrize("path", ["$GONE/a", "${GONE}", "~/$GONE"])
def test_unset_variable_is_reported(path):
    with pytest.raises(InputError) as caught:
        expand_path(path, "here")
    assert str(caught.value) == (
        f"here: the environment variable GONE in {path!r} is not set; set it, or write $$ for a dollar sign"
    )


@given(st.text(alphabet="~$/{}DATAx \\", max_size=12))
def test_escaped_path_expands_to_itself(path):
    assert expand_path(escape_path(path), "here") == path


def test_keys_that_may_be_paths():
    keys = [f"data.{part}{name}" for part in ("train", "val") for name in ("", ".images", ".annotations")]
    assert all(map(is_path_key, [*keys, "model.backbone.weights", "train.init_from"]))
    assert not any(map(is_path_key, ["device", "data", "data.train.split", "data.val.format", "no.such"]))


# ---- files


def test_paths_of_a_file_and_its_base_are_expanded(write):
    write("data: {train: ~/set, val: {images: '$DATA/val', annotations: val.json}}\n", "common.yaml")
    cfg = load_config(write("base: common.yaml\ntrain: {epochs: 1, init_from: '${DATA}/a.pt'}\ndevice: $GONE\n"))
    assert cfg.data.train[0].annotations == "/home/me/set"
    assert (cfg.data.val[0].images, cfg.data.val[0].annotations) == ("/data/$x ~/val", "val.json")
    assert (cfg.train.init_from, cfg.device) == ("/data/$x ~/a.pt", "$GONE")  # a device is not a path


def test_several_sources_are_expanded(write):
    cfg = load_config(write(TRAIN + "data: {train: [~/a, {annotations: ~/b, images: ~/c}]}\n"))
    assert [(source.annotations, source.images) for source in cfg.data.train] == [
        ("/home/me/a", None), ("/home/me/b", "/home/me/c")
    ]  # fmt: skip


def test_unset_variable_in_a_file_or_override_is_an_error(write):
    expected = "the environment variable GONE in '$GONE/a' is not set; set it, or write $$ for a dollar sign"
    path = write(TRAIN + "data: {train: [{annotations: a, images: $GONE/a}]}\n")
    assert error_message(path) == f"mine.yaml: data.train.images: {expected}"
    assert error_message(write(TRAIN), ["data.val=$GONE/a"]) == (
        f"override 'data.val=$GONE/a': data.val: {expected}"
    )  # fmt: skip


def test_written_config_is_not_expanded_again(write, tmp_path):
    cfg = load_config(write(TRAIN), ["data.val=$DATA/$$x", "data.train.annotations=$~"])
    assert (cfg.data.val[0].annotations, cfg.data.train[0].annotations) == ("/data/$x ~/$x", "~")
    (tmp_path / "full.yaml").write_text(config_to_yaml(cfg))
    assert load_config(tmp_path / "full.yaml") == cfg


# ---- overrides


@pytest.mark.parametrize(
    "text",
    [
        "/x/set #1/train",
        "data: v2",
        "@data",
        "*data",
        "&data",
        "!data",
        "%data",
        "`data`",
        "C:\\Users\\me\\new",
        "2024",
        "1e3",
        "true",
        "[1] set/train",
        "a, b",
        "it's",
        "a=b",
        "- a",
        "a: b: c",
        "größe/é",
    ],
)
def test_text_is_taken_literally(write, text):
    cfg = load_config(write(TRAIN), [f"data.train.images={text}", "data.train.annotations=a", f"data.val={text}"])
    assert (cfg.data.train[0].images, cfg.data.val[0].annotations) == (text, text)
    assert parse_override(f"train.init_from={text}") == {"train": {"init_from": text}}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.train='a #1'", "a #1"),
        ('data.train="a\\tb"', "a\tb"),
        ("data.train=[a, b]", ["a", "b"]),
        ("data.train={annotations: a}", {"annotations": "a"}),
        ("data.train=null", None),
        ("data.train=", None),
        ("data.train= a ", "a"),
    ],
)
def test_quotes_brackets_and_null_are_yaml(override, value):
    assert parse_override(override) == {"data": {"train": value}}


def test_other_keys_are_yaml():
    assert parse_override("train.seed=3 # three") == {"train": {"seed": 3}}
    assert parse_override("data.classes=[a, b]") == {"data": {"classes": ["a", "b"]}}
    assert parse_override("data.resize.shorter=[3]") == {"data": {"resize": {"shorter": [3]}}}
