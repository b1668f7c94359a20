"""Properties declared on schema fields, compared with explicit lists of keys."""

import pytest

from retinanet.config import Config
from retinanet.config.data import DataConfig, ResizeConfig
from retinanet.config.facts import affects_results, fields_on_path, may_change_on_resume
from tests.helpers.config_keys import schema_keys

MAY_CHANGE = {
    "data.train",
    "data.val",
    "data.workers",
    "data.missing_images",
    "data.allow_outside_paths",
    "data.max_pixels",
    "data.max_unreadable",
    "device",
    "evaluation",
    "inference",
    "postprocess",
    "model.backbone.weights",
    "model.backbone.checkpoint_activations",
    "model.num_classes",
    "train.accumulate",
    "train.allow_local_norm",
    "train.best_metric",
    "train.compile",
    "train.early_stop",
    "train.eval_batch_size",
    "train.grace",
    "train.init_from",
    "train.keep_checkpoints",
    "train.log_every",
    "train.max_hours",
    "train.max_skipped",
    "train.on_nonfinite",
    "train.save_every",
    "train.stall_timeout",
    "train.trackers",
}
NO_EFFECT = {
    "device",
    "data.workers",
    "train.compile",
    "train.grace",
    "train.keep_checkpoints",
    "train.log_every",
    "train.save_every",
    "train.stall_timeout",
    "train.trackers",
}


ALL_KEYS = schema_keys(Config)


def is_in(key: str, listed: set[str]) -> bool:
    return any(f"{key}.".startswith(f"{entry}.") for entry in listed)


def test_keys_that_may_change_on_resume():
    assert {key for key in ALL_KEYS if may_change_on_resume(key)} == {key for key in ALL_KEYS if is_in(key, MAY_CHANGE)}
    assert {key for key in MAY_CHANGE if key not in ALL_KEYS} == set()


def test_keys_without_effect_on_results():
    assert {key for key in ALL_KEYS if not affects_results(key)} == NO_EFFECT


def test_keys_of_every_union_member_have_facts():
    for key in (
        "loss.classification.nms_iou",
        "loss.classification.alpha",
        "train.optimizer.betas",
        "assignment.bg_iou",
    ):
        assert not may_change_on_resume(key)
        assert affects_results(key)


@pytest.mark.parametrize("key", ["", "nothing", "train.nothing", "train.grace.nothing", "inference.nothing"])
def test_key_missing_from_the_schema_has_no_facts(key):
    assert not may_change_on_resume(key)
    assert affects_results(key)


def test_path_has_the_field_of_each_part():
    fields = fields_on_path("data.resize.divisor")
    parts = [(Config, "data"), (DataConfig, "resize"), (ResizeConfig, "divisor")]
    assert fields == [model.model_fields[name] for model, name in parts]
