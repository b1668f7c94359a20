import json

import pytest

from retinanet.engine.run_folder import MARKER, is_of_this_launch


@pytest.fixture
def launched(monkeypatch):
    """Pretends to be a worker of torchrun."""

    def start(run_id: str) -> str:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        monkeypatch.setattr("retinanet.distributed.os.getppid", lambda: 4321)
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
