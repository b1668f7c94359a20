"""Reading the config of a checkpoint without torch."""

import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch

from retinanet.checkpoint.file import read_checkpoint, write_checkpoint
from retinanet.checkpoint.header import read_config
from retinanet.config.load import load_config
from retinanet.errors import InputError
from tests.helpers.checkpoints import checkpoint_of
from tests.helpers.processes import ENVIRONMENT


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint with everything that a training state may contain."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    state = {
        "model": OrderedDict(model.state_dict()),
        "half": torch.zeros(3, dtype=torch.bfloat16),
        "optimizer": optimizer.state_dict(),
        "rng_state": torch.get_rng_state(),
        "dtype": str(torch.float32),
        "nothing": None,
        "numbers": [1, 2.5, True, {"a": (1, 2)}],
    }
    cfg = load_config("quickstart", ["train.seed=12", "data.val={images: ä, annotations: b}"])
    write_checkpoint(tmp_path / "a.pt", checkpoint_of(3, **state)._replace(config=cfg))
    return tmp_path / "a.pt"


def test_config_equals_the_one_read_with_torch(checkpoint):
    assert read_config(checkpoint) == read_checkpoint(checkpoint).config
    assert read_config(checkpoint).train.seed == 12


def test_torch_is_not_imported(checkpoint):
    code = (
        "import sys; from pathlib import Path; from retinanet.checkpoint.header import read_config\n"
        "assert read_config(Path(sys.argv[1])).train.seed == 12; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, checkpoint], env={**os.environ, **ENVIRONMENT})
    assert done.returncode == 0


class Harmful:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_the_file_is_not_executed(tmp_path):
    content = {"config": "{}", "state": Harmful(str(tmp_path / "harm"))}
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(content))
    with pytest.raises(InputError, match=r"a\.pt: config: 1 problem"):  # read to the end: {} is not a valid config
        read_config(tmp_path / "a.pt")
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(content))["state"].close()
    assert (tmp_path / "harm").exists()  # the code does run if executed


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\x80\x02.", b"PK\x05\x06" + bytes(18)],
    ids=["empty", "text", "bare pickle", "empty archive"],
)
def test_other_files_return_none(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    assert read_config(tmp_path / "a.pt") is None
    assert read_config(tmp_path / "gone.pt") is None


def test_truncated_and_foreign_checkpoints_return_none(checkpoint, tmp_path):
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: len(data) // 2])
    assert read_config(checkpoint) is None
    for content in ({"state": 1}, torch.zeros(3), {"config": "not JSON"}, {"config": torch.zeros(2)}):
        torch.save(content, tmp_path / "other.pt")
        assert read_config(tmp_path / "other.pt") is None
