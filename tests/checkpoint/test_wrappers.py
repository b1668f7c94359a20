import logging

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from retinanet.checkpoint.file import read_checkpoint, write_checkpoint
from retinanet.checkpoint.wrappers import without_prefixes
from retinanet.errors import InputError
from tests.helpers.checkpoints import checkpoint_of


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 5, 1)))


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.model.", "model.model."]
)
def test_prefixes_are_removed_in_any_order_and_number(prefix):
    state = network().state_dict()
    assert without_prefixes({prefix + name: value for name, value in state.items()}, source="x.pt") == state


def test_names_given_by_torch_itself_become_plain():
    """torch.compile adds its prefix where it is called, even inside a name; AveragedModel also adds a counter."""
    plain = network()
    names = list(plain.state_dict())
    assert list(without_prefixes(torch.compile(plain).state_dict(), source="x.pt")) == names
    inside = network()
    inside[1] = torch.compile(inside[1])
    assert "1._orig_mod.0.weight" in inside.state_dict()
    assert list(without_prefixes(inside.state_dict(), source="x.pt")) == names
    averaged = without_prefixes(AveragedModel(plain).state_dict(), source="x.pt")
    assert set(averaged) == {*names, "n_averaged"}
    assert list(without_prefixes(nn.DataParallel(plain).state_dict(), source="x.pt")) == names


def test_only_the_given_prefixes_are_removed():
    assert without_prefixes({"module.model.a": 1}, ("module.",), source="x.pt") == {"model.a": 1}
    assert without_prefixes({"modules.a": 1, "backbone.model.b": 2}, source="x.pt") == {
        "modules.a": 1,
        "backbone.model.b": 2,
    }


def test_names_that_differ_only_in_their_prefix_are_refused():
    with pytest.raises(InputError, match=r"x\.pt: contains a twice, as module\.a and model\.a"):
        without_prefixes({"module.a": 1, "model.a": 2}, source="x.pt")


@pytest.mark.parametrize("with_average", [False, True])
def test_checkpoint_whose_weights_were_saved_from_a_wrapped_model_is_read(tmp_path, caplog, with_average):
    weights = {"module.a": torch.ones(2), "module._orig_mod.b": torch.zeros(3)}
    state = {"model": weights, "optimizer": {"module.a": 1}}
    if with_average:
        state["ema"] = {"model": {"module.a": torch.full((2,), 2.0), "module.b": torch.ones(3)}, "updates": 5}
    write_checkpoint(tmp_path / "x.pt", checkpoint_of(**state))
    with caplog.at_level(logging.WARNING):
        read = read_checkpoint(tmp_path / "x.pt")
    assert set(read.state["model"]) == {"a", "b"} and torch.equal(read.state["model"]["a"], torch.ones(2))
    assert read.state["optimizer"] == {"module.a": 1}
    assert set(read.weights()) == {"a", "b"} and read.weights()["a"][0] == (2 if with_average else 1)
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / 'x.pt'}: removed the prefix of module.a and of the other names of weights"
    ]


@pytest.mark.parametrize("names", [[], ["a", "module.b"], ["model.a", "model.b"]])
def test_other_checkpoints_are_read_unchanged(tmp_path, caplog, names):
    """A user's network may have an attribute called `model`."""
    write_checkpoint(tmp_path / "x.pt", checkpoint_of(model={name: torch.ones(1) for name in names}))
    assert list(read_checkpoint(tmp_path / "x.pt").state["model"]) == names
    assert caplog.records == []


def test_state_dict_in_place_of_a_checkpoint_is_refused_with_advice(tmp_path):
    torch.save(network().state_dict(), tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt: a state dict, expected .* train\.init_from=.*x\.pt"):
        read_checkpoint(tmp_path / "x.pt")
