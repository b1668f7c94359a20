import functools
import subprocess
import sys

import pytest

from retinanet.config import Config, CustomConfig, TrainConfig
from retinanet.config.custom import check_part, part_name
from retinanet.config.flat import flat_config
from retinanet.config.load import config_from_values, config_to_yaml, load_config
from retinanet.errors import InputError

PLAIN = Config(train=TrainConfig(steps=1))


def test_config_without_custom_parts_has_no_trace_of_them():
    assert "custom" not in config_to_yaml(PLAIN)
    assert not any(key.startswith("custom") for key in flat_config(PLAIN))


@pytest.mark.parametrize(
    ("part", "replaced"),
    [
        ("model", "model."),
        ("class_loss", "loss.classification."),
        ("loss", "loss."),
        ("train_data", "data.train"),
        ("val_data", "data.val"),
    ],
)
def test_replaced_keys_are_omitted_and_all_others_kept(part, replaced, tmp_path):
    cfg = PLAIN.model_copy(update={"custom": CustomConfig(**{part: "users_module.Part"})})
    before, after = flat_config(PLAIN), flat_config(cfg)
    omitted = {key for key in before if key == replaced or (replaced.endswith(".") and key.startswith(replaced))}
    assert before.keys() - after.keys() == omitted != set()
    assert after[f"custom.{part}"] == "users_module.Part"
    file = tmp_path / "config.yaml"
    file.write_text(config_to_yaml(cfg))
    assert load_config(file).custom == cfg.custom


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("model", {"model": {"channels": 64}}),
        ("class_loss", {"loss": {"classification": {"type": "focal", "gamma": 1.0}}}),
        ("loss", {"loss": {"box_weight": 2.0}}),
    ],
)
def test_key_that_a_part_replaces_is_refused(part, values):
    with pytest.raises(InputError, match=r"has no effect with the custom part users_module.Part; remove these keys"):
        config_from_values({**values, "custom": {part: "users_module.Part"}, "train": {"steps": 1}}, source="test")


def function():
    """A custom part."""


class Outer:
    class Part:
        """A custom part."""


def test_names_of_classes_objects_and_functions():
    assert part_name(Outer.Part()) == part_name(Outer.Part) == f"{__name__}.Outer.Part"
    assert part_name(function) == part_name(functools.partial(function)) == f"{__name__}.function"


def test_class_in_a_script_is_named_after_the_script(tmp_path):
    script = tmp_path / "my_training.py"
    script.write_text("from retinanet.config.custom import part_name\nclass Net: pass\nprint(part_name(Net()))\n")
    for arguments in ([str(script)], ["-m", "my_training"]):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "my_training.Net\n"


def test_part_that_was_not_expected_is_refused():
    with pytest.raises(InputError, match=r"a.pt: uses no custom class loss, but users_module.Part was passed"):
        check_part("class_loss", None, "users_module.Part", source="a.pt", how="")
