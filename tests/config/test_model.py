"""Pyramid levels, and the anchor strides and sizes that follow from them."""

import json

import pytest

from retinanet.config import AnchorConfig, Config, ModelConfig, TrainConfig
from retinanet.config.load import config_from_values, config_to_yaml, load_config, with_overrides
from retinanet.errors import InputError

DEFAULT = Config(train=TrainConfig(steps=1))


@pytest.mark.parametrize(
    ("levels", "strides", "sizes"),
    [
        ("p2..p7", (4, 8, 16, 32, 64, 128), (16, 32, 64, 128, 256, 512)),
        ("p2..p5", (4, 8, 16, 32), (16, 32, 64, 128)),
        ("p3..p7", (8, 16, 32, 64, 128), (32, 64, 128, 256, 512)),
        ("p3..p6", (8, 16, 32, 64), (32, 64, 128, 256)),
        ("p3..p5", (8, 16, 32), (32, 64, 128)),
    ],
)
def test_strides_and_default_sizes_follow_the_levels(levels, strides, sizes):
    for anchors in (
        ModelConfig(levels=levels).anchors,
        with_overrides(DEFAULT, f"model.levels={levels}", "").model.anchors,
    ):
        assert (anchors.strides, anchors.sizes) == (strides, sizes)


def test_anchors_alone_are_those_of_the_default_levels():
    assert AnchorConfig() == ModelConfig().anchors


def test_other_anchor_settings_do_not_change_the_default_sizes(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: {levels: p2..p6, anchors: {offset: 0.5}}\ntrain: {steps: 1}\n")
    anchors = load_config(file).model.anchors
    assert (anchors.offset, anchors.sizes) == (0.5, (16, 32, 64, 128, 256))


def test_sizes_may_be_set_for_the_levels():
    cfg = with_overrides(DEFAULT, ["model.levels=p2..p5", "model.anchors.sizes=[8, 16, 32, 64]"], "test")
    assert cfg.model.anchors.sizes == (8, 16, 32, 64)
    # They are not the defaults, so other levels need other sizes.
    with pytest.raises(InputError, match=r"4 sizes, but 5 levels: p3\.\.p7"):
        with_overrides(cfg, "model.levels=p3..p7", "test")


def test_levels_of_a_loaded_config_can_be_changed_and_changed_back():
    changed = with_overrides(DEFAULT, "model.levels=p2..p7", "test")
    assert with_overrides(changed, "model.levels=p3..p7", "test") == DEFAULT


def test_config_with_levels_survives_writing_and_reading(tmp_path):
    cfg = with_overrides(DEFAULT, "model.levels=p2..p6", "test")
    file = tmp_path / "config.yaml"
    file.write_text(config_to_yaml(cfg))
    assert load_config(file) == cfg


def test_config_of_an_older_checkpoint_has_the_default_levels():
    values = json.loads(DEFAULT.model_dump_json())
    del values["model"]["levels"]
    values["model"]["anchors"]["sizes"] = [16, 32, 64, 128, 256]
    cfg = config_from_values(values, "old.pt")
    assert (cfg.model.levels, cfg.model.anchors.strides) == ("p3..p7", (8, 16, 32, 64, 128))
    assert cfg.model.anchors.sizes == (16, 32, 64, 128, 256)


def test_unknown_levels_are_the_only_problem():
    with pytest.raises(InputError, match=r"1 problem\(s\)[^\n]*\n  model\.levels: found .p1\.\.p7") as caught:
        with_overrides(DEFAULT, "model.levels=p1..p7", "test")
    assert "p2..p7" in str(caught.value)
