import json
from types import SimpleNamespace

import pytest

from retinanet.config.load import config_from_values, load_config
from retinanet.engine.run_folder import MARKER, check_same_run, is_of_this_launch
from retinanet.errors import InputError

DATA = SimpleNamespace(class_names=("cat", "dog"), records=[None] * 3)


@pytest.fixture
def launched(monkeypatch):
    """Pretends to be a worker of torchrun."""

    def start(run_id: str) -> str:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        monkeypatch.setattr("retinanet.runtime.distributed.os.getppid", lambda: 4321)
        return f"{run_id} 4321"

    return start


def test_a_restart_goes_on_with_a_run_of_its_own_launch_alone(tmp_path, launched):
    launch = launched("abc")
    assert not is_of_this_launch(tmp_path)  # nothing was begun
    (tmp_path / MARKER).write_text(json.dumps({"launch": launch}))
    assert is_of_this_launch(tmp_path)
    launched("another")
    assert not is_of_this_launch(tmp_path)


@pytest.mark.parametrize("content", ['{"launch": nu', "{}", '{"launch": null}'])
def test_a_folder_that_does_not_say_so_is_not_of_this_launch(tmp_path, launched, content):
    launched("abc")
    (tmp_path / MARKER).write_text(content)
    assert not is_of_this_launch(tmp_path)


def test_without_torchrun_nothing_is(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / MARKER).write_text('{"launch": null}')
    assert not is_of_this_launch(tmp_path)


def content_of(values):
    return {"config": json.dumps(values), "class_names": ["cat", "dog"], "num_images": 3}


def test_a_key_that_the_checkpoint_is_older_than_has_its_default():
    values = {"train": {"epochs": 1}, "assignment": {"fg_iou": 0.6}}  # of a time without assignment.type
    check_same_run(content_of(values), config_from_values(values, source="now"), DATA, None)
    with pytest.raises(InputError, match=r"another assignment\.fg_iou: it was 0\.6, now 0\.5"):
        check_same_run(content_of(values), config_from_values({"train": {"epochs": 1}}, source="now"), DATA, None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("assignment.type=atss", r"another assignment\.anchors_per_level: it was None, now 9"),
        ("loss.classification.gamma=1.0", r"another loss\.classification\.gamma: it was 2\.0, now 1\.0"),
        ("train.seed=5", r"another train\.seed: it was 0, now 5"),
    ],
)
def test_another_recipe_is_refused_by_key(override, message):
    content = content_of(json.loads(load_config("quickstart").model_dump_json()))
    check_same_run(content, load_config("quickstart", ["postprocess.min_score=0.5", "device=cpu"]), DATA, None)
    with pytest.raises(InputError, match=message):
        check_same_run(content, load_config("quickstart", [override]), DATA, None)
