import pytest

from retinanet.config import AdamWConfig, SGDConfig, TrainConfig
from retinanet.config.keys import keys_with_leaf, one_of, schema_keys
from retinanet.config.load import config_from_values
from retinanet.errors import InputError


def test_schema_keys_include_sections_variants_and_single_sources():
    keys = schema_keys()
    assert keys["train.steps"] == [TrainConfig]
    assert keys["train.optimizer.lr"] == [SGDConfig, AdamWConfig]
    assert keys["train.optimizer.betas"] == [AdamWConfig]
    assert {"data.train.images", "model.backbone.norm", "loss.box.beta", "device"} <= keys.keys()


def test_every_listed_key_exists_in_the_schema():
    """An override of a listed key may have an invalid value or belong to another variant, but is never unknown."""
    for key in schema_keys():
        values: object = None
        for part in reversed(key.split(".")):
            values = {part: values}
        try:
            config_from_values(values, source="test")
        except InputError as error:
            assert f"{key}: unknown key;" not in str(error), key


def test_items_of_lists_have_no_keys():
    assert {"data.transforms", "data.classes"} <= schema_keys().keys()
    assert not any(key.startswith(("data.transforms.", "data.classes.")) for key in schema_keys())


@pytest.mark.parametrize(
    ("name", "section", "found"),
    [
        ("epochs", "", ["train.epochs"]),
        ("step", "", ["train.steps"]),
        ("gamma", "", ["loss.classification.gamma", "train.schedule.gamma"]),
        ("gamma", "train", ["train.schedule.gamma", "loss.classification.gamma"]),
        ("gamma", "train.optimizer", ["train.schedule.gamma"]),
        ("xyzzy", "", []),
    ],
)
def test_keys_are_found_by_their_last_part(name, section, found):
    assert keys_with_leaf(name, section=section) == found


def test_alternatives_are_listed_in_words():
    assert [one_of("a"), one_of("ab"), one_of("abc")] == ["'a'", "'a' or 'b'", "'a', 'b' or 'c'"]
